"""Several data sets in one training, as a user trains, stops, resumes and evaluates it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cusa import recipe as recipes
from cusa.data_config import MixedSet
from cusa.errors import ConfigError, CusaError, DataError, StaleError, StoppedError
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from cusa.workflow.mixture import training_data
from cusa.workflow.mixture.validation import metric_names
from tests import worlds
from tests.workflow.test_train_heads import FEW


def _extract(split: Split, teacher: Any) -> None:
    extract.run(
        ExtractConfig(transform="none"),
        split=split,
        teacher=teacher.name,
        modality=teacher.modality,
        load=lambda name, modality: teacher,
    )


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two data sets of other captions, the second with its tables under other names."""
    folder = tmp_path_factory.mktemp("works")
    first = worlds.make_work(folder / "first", images=12, captions=3)
    second = worlds.make_work(folder / "second", images=8, captions=2)
    for name in ("train", "val", "test"):
        for work in (first, second):
            _extract(Split(work, name), worlds.Colours())
            _extract(Split(work, name), worlds.Words())
        for table in ("colours", "words"):
            place = second / name / "teachers" / table
            place.rename(place.with_name(f"{table}-elsewhere"))
    return [first, second]


def _sets(works: list[Path], **second: Any) -> str:
    own = {"image": "colours-elsewhere", "text": "words-elsewhere"}
    sets = [
        {"data": str(works[0]), "name": "one", "weight": 2},
        {"data": str(works[1]), "name": "two", "weight": 1, "teachers": own, "tables": own, **second},
    ]
    return "data.train=[" + ", ".join(_inline(one) for one in sets) + "]"


def _inline(one: dict[str, Any]) -> str:
    inner = (f"{key} = {_inline(item) if isinstance(item, dict) else json.dumps(item)}" for key, item in one.items())
    return "{ " + ", ".join(inner) + " }"


def _recipe(works: list[Path], *settings: str, **second: Any) -> recipes.Recipe:
    named = ("teachers.image=colours", "teachers.text=words", "student.heads.image_table=colours")
    heads = ("student.heads.text_table=words", "train.checkpoint_every=2")
    return recipes.load("tiny", [*FEW, *named, *heads, _sets(works, **second), *settings])


def _stop_after(number: int) -> Callbacks:
    steps: list[int] = []
    return Callbacks(should_stop=lambda: steps.append(1) or len(steps) >= number)  # type: ignore[func-returns-value]


@pytest.fixture(scope="module")
def run(works: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mix"
    said: list[str] = []
    recipe = _recipe(works)
    assert training.train(recipe, work=works[0], out=out, callbacks=Callbacks(on_message=said.append)).fresh
    assert not training.train(recipe, work=works[0], out=out).fresh
    assert any("one 32 (66.7%; 0.89 passes over its 36 pairs); two 16" in line for line in said), said
    return out


def test_a_stopped_run_goes_on_to_the_same_bits_wherever_the_sets_lie(
    works: list[Path], run: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        training.train(_recipe(works), work=works[0], out=tmp_path / "run", callbacks=_stop_after(5))
    moved = [shutil.copytree(work, tmp_path / f"moved{number}") for number, work in enumerate(works)]
    done = training.train(_recipe(moved), work=moved[0], out=tmp_path / "run", resume="must")
    assert done.counts["steps_done_now"] == 7
    weights = [store.sha256_file(out / "model" / "weights.safetensors") for out in (run, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_every_set_is_validated_and_the_run_says_which(works: list[Path], run: Path) -> None:
    rows = store.read_table(run / "metrics.parquet").to_pylist()
    last = {row["name"]: row["value"] for row in rows if row["step"] == 12}
    assert last["val.rsum"] == pytest.approx((last["val.one/rsum"] + last["val.two/rsum"]) / 2)
    mixture = store.read_json(run / "run.json")["mixture"]
    assert [one["name"] for one in mixture] == ["one", "two"]
    assert [one["digest"] for one in mixture] == [Split(work, "train").digest for work in works]
    (result,) = scoring.evaluate(str(run), scoring.EvalRequest(data=[works[0]]))
    assert Path(result["out"]) == run / "eval", "the first set's folder is the run's own"
    assert isinstance(result["leakage"], dict)
    ledger = store.read_json(run / "ledger.json")
    assert {f"the training split of data set {number}" for number in (1, 2)} <= {*ledger["inputs"]}


def test_a_changed_set_or_weight_is_refused_by_name(works: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        training.train(_recipe(works), work=works[0], out=tmp_path / "run", callbacks=_stop_after(3))
    with pytest.raises(StaleError, match=r"data\.train was \['2/3', '1/3'\] and is now \['2/7', '5/7'\]"):
        training.train(_recipe(works, weight=5), work=works[0], out=tmp_path / "run")
    done = training.train(
        _recipe(works, weight=5), work=works[0], out=tmp_path / "run", allow_changed=["data.train"], resume="must"
    )
    assert done.counts["steps"] == 12


def test_weights_of_the_same_ratio_are_the_same_training(works: list[Path], run: Path) -> None:
    again = _recipe(works, weight=3)
    sets = tuple(one.model_copy(update={"weight": 6.0 if one.name == "one" else 3.0}) for one in again.data.sets)
    again = again.model_copy(update={"data": again.data.model_copy(update={"train": sets})})
    assert not training.train(again, work=works[0], out=run).fresh


def test_a_set_without_a_folder_is_monitored_by_the_name_of_the_one_that_data_gives(works: list[Path]) -> None:
    data = _recipe(works).data.model_copy(update={"train": (MixedSet(), MixedSet(data=str(works[1]), name="two"))})
    assert metric_names(data, works[0], ["rsum"]) == ["rsum", f"{works[0].name}/rsum", "two/rsum"]
    no_val = data.model_copy(update={"val": "dev"})
    assert metric_names(no_val, works[0], ["rsum"]) == ["rsum"]


@pytest.mark.parametrize(
    ("second", "settings", "words"),
    [
        ({"split": "restval"}, (), r"data\.train\.2 \(two\): .* has no split 'restval'; it has train, val, test"),
        ({"val": "dev"}, (), r"data\.train\.2 \(two\): .* has no split 'dev'"),
        ({"teachers": {"image": "nobody"}}, (), r"data\.train\.2 \(two\): .* has no image teacher 'nobody'"),
        ({"tables": {"image": "nobody"}}, (), r"data\.train\.2 \(two\): student\.heads\.image_table is 'nobody'"),
        ({}, ("train.batches=apart",), r"train\.batches is 'apart'"),
        ({}, ("data.mix=batches", "train.drop_last=false"), r"every batch is full"),
        ({}, ("train.monitor=three/rsum",), r"train\.monitor is 'three/rsum'"),
        ({"val": ""}, ("train.monitor=two/rsum",), r"train\.monitor is 'two/rsum'.* Did you mean '(one/)?rsum'"),
        ({"val": ""}, ("data.val=dev",), r"No data set of data\.train is validated"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(
    works: list[Path], tmp_path: Path, second: dict[str, Any], settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(CusaError, match=words):
        training.train(_recipe(works, *settings, **second), work=works[0], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("[]", "train is an empty list"),
        ("[{data='a', weight=0}]", r"data\.train\.1\.weight: a weight is 0\.0"),
        ("[{data='a', weight=-1}]", r"data\.train\.1\.weight: a weight is -1\.0"),
        ("[{data='a', weight=nan}]", r"data\.train\.1\.weight = nan: Input should be a finite number"),
        ("[{data='a'}, {data='./a'}]", "lists one data set twice"),
        ("[{data='a', weight=1}, {data='b'}]", "gives 1 of 2 data sets a weight"),
        ("[{data='x/a'}, {data='y/a'}]", "2 data sets that are called 'a'"),
        ("[{data='a', wait=1}]", r"Unknown key 'data\.train\.1\.wait'. Did you mean 'data\.train\.1\.weight'"),
        ("[{data='a', name='a/b'}]", "without / : #"),
    ],
)
def test_a_recipe_s_list_is_checked_before_anything_is_read(sets: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipes.load("tiny", [f"data.train={sets}"])


def test_one_data_set_under_two_names_is_refused(works: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(works[0], tmp_path / "copy")
    recipe = _recipe([works[0], copy], teachers={}, tables={})
    with pytest.raises(ConfigError, match="one data set, listed twice"):
        training_data.open_sets(recipe, works[0])


class _Bright(worlds.Colours):
    """Another encoder, of another width."""

    name = "bright"
    width = 2

    def encode(self, items: Any) -> Any:
        return super().encode(items)[:, :2] / (super().encode(items)[:, :2] ** 2).sum(1, keepdims=True) ** 0.5

    def provenance(self) -> dict[str, str]:
        return {**super().provenance(), "teacher": self.name, "weights_sha256": "another"}


def test_teachers_may_differ_only_where_each_batch_is_of_one_set(works: list[Path], tmp_path: Path) -> None:
    second = shutil.copytree(works[1], tmp_path / "second")
    _extract(Split(second, "train"), _Bright())
    sets = [works[0], second]
    own = {"image": "bright", "text": "words-elsewhere"}
    with pytest.raises(ConfigError, match=r"made by different encoders \(width '3' and '2'"):
        training.train(_recipe(sets, teachers=own), work=works[0], out=tmp_path / "run")
    done = training.train(_recipe(sets, "data.mix=batches", teachers=own), work=works[0], out=tmp_path / "run")
    assert done.counts["steps"] == 12


def test_data_is_needed_only_where_a_set_names_no_folder(works: list[Path]) -> None:
    data = _recipe(works).data
    assert training_data.main_folder(data, None) == works[0]
    with pytest.raises(ConfigError, match="every data set of data.train names its own folder"):
        training_data.main_folder(data, works[0])
    with pytest.raises(ConfigError, match="Give the work folder with --data"):
        training_data.main_folder(recipes.load("tiny").data, None)


def test_a_missing_folder_is_named_by_its_key(works: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train\.2 \(two\): .*gone does not exist"):
        training_data.open_sets(_recipe([works[0], tmp_path / "gone"]), works[0])
