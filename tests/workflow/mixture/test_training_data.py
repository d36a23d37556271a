"""What a recipe trains on: folders, words for tables, inputs by content, and what is written of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cusa import recipe as recipes
from cusa.data_config import MixedSet, TablesConfig
from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.judgements import own_pairs, pair_judgements
from cusa.manifests.samples import Split
from cusa.models import features
from cusa.workflow.mixture import training_data
from cusa.workflow.mixture.training_data import SetFolder, TrainingSet
from tests.worlds import make_work

TEACHERS = ("teachers.image=eyes", "teachers.text=ears")
HEADS = ("student.heads.image_table=pixels", "student.heads.text_table=words")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("mixture"), images=3, captions=2)


def _recipe(*settings: str, **data: Any) -> recipes.Recipe:
    loaded = recipes.load("tiny", [*TEACHERS, *HEADS, *settings])
    return loaded.model_copy(update={"data": loaded.data.model_copy(update=data)})


def test_folders__of_one_split_the_recipe_s_words(work: Path) -> None:
    (one,) = training_data.folders(_recipe("data.train=val", "data.val=test"), work)
    words = {"image": "eyes", "text": "ears"}, {"image": "pixels", "text": "words"}
    assert one == SetFolder("", "val", work, "val", "test", None, *words)


def test_folders__of_several_each_its_own_words_before_the_recipe_s(work: Path) -> None:
    sets = (
        MixedSet(weight=2.5, val="dev"),
        MixedSet(
            data="~/other",
            name="two",
            split="restval",
            weight=1,
            teachers=TablesConfig(image="owls"),
            tables=TablesConfig(text="letters"),
        ),
    )
    one, two = training_data.folders(_recipe(train=sets), work)
    words = {"image": "eyes", "text": "ears"}, {"image": "pixels", "text": "words"}
    assert one == SetFolder("data.train.1", work.name, work, "train", "dev", 2.5, *words)
    home = Path("~/other").expanduser()
    own = {"image": "owls", "text": "ears"}, {"image": "pixels", "text": "letters"}
    assert two == SetFolder("data.train.2", "two", home, "restval", None, 1.0, *own)
    assert training_data.unique_folders(_recipe(train=sets), work) == [work, home]
    same = (MixedSet(data=str(work), name="a"), MixedSet(data=str(work), name="b", split="val"))
    assert training_data.unique_folders(_recipe(train=same), work) == [work]
    with pytest.raises(ConfigError, match=r"data\.train\.2 is called 'work', as another set is"):
        training_data.folders(_recipe(train=(MixedSet(), MixedSet(name="work", split="val"))), work)


def _set(work: Path, split: str, val: str | None, **more: Any) -> TrainingSet:
    folder = SetFolder(f"data.train.{split}", split, work, split, val, 2.0, {}, {})
    opened = Split(work, val) if val else None
    return TrainingSet(folder, Split(work, split), opened, {"image": "eyes", "text": "ears"}, more.get("features", {}))


def test_inputs__everything_that_the_weights_depend_on_by_content(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "teacher_digest", lambda split, name: f"{split.name} {name}")
    monkeypatch.setattr(own_pairs, "weights_digest", lambda split: f"{split.name} weights")
    monkeypatch.setattr(features, "digest", lambda split, modality, table: f"{split.name} {modality} {table}")
    read: Any = {"image": "pixels", "text": "words"}
    one = _set(work, "train", "val", features=read)
    told = _recipe("loss.alpha=0.1", "loss.false_negatives=positive")
    train, val = Split(work, "train"), Split(work, "val")
    plain = {"the training split": train.digest, "the validation split": val.digest}
    teachers = {"the image teacher": "train eyes", "the text teacher": "train ears"}
    verdicts = {"the verdicts": pair_judgements.read(train).digest}
    weights = {"the audit of the pairs": "train weights"}
    columns = {
        f"the {modality} features of {name}": f"{name} {modality} {read[modality]}"
        for modality in ("image", "text")
        for name in ("train", "val")
    }
    assert training_data.inputs(told, [one]) == {**plain, **teachers, **verdicts, **columns}
    weighed = _recipe("loss.alpha=0.1", "loss.pair_weights=audit")
    assert training_data.inputs(weighed, [one]) == {**plain, **teachers, **weights, **columns}
    bare = replace(one, features={}, val=None)
    without = _recipe("loss.alpha=0", "loss.beta=0")
    assert training_data.inputs(without, [bare]) == {"the training split": train.digest}
    two = _set(work, "val", "test")
    both = training_data.inputs(_recipe("loss.alpha=0.1"), [replace(one, features={}), two])
    assert both == {
        **{f"{what} of data set 1": digest for what, digest in {**plain, **teachers}.items()},
        "the training split of data set 2": val.digest,
        "the validation split of data set 2": Split(work, "test").digest,
        "the image teacher of data set 2": "val eyes",
        "the text teacher of data set 2": "val ears",
    }


def test_described__each_set_as_it_was_trained_on(work: Path) -> None:
    one, two = _set(work, "train", "val"), _set(work, "val", None)
    assert training_data.described([one, two]) == [
        {
            "name": name,
            "data": str(work.resolve()),
            "split": name,
            "val": val,
            "weight": 2.0,
            "pairs": 6,
            "digest": Split(work, name).digest,
            "teachers": {"image": "eyes", "text": "ears"},
        }
        for name, val in (("train", "val"), ("val", ""))
    ]
    plain = replace(one, folder=replace(one.folder, key=""))
    assert training_data.described([plain]) == []


def test_look__what_is_there_and_what_is_not(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "choose_teacher", lambda split, kind, word: word)
    weighted = (MixedSet(name="one", weight=3), MixedSet(name="two", split="val", val="", weight=1))
    told = _recipe("loss.alpha=0.1", train=weighted)
    assert training_data.look(told, work) == [
        ("data set one", "train of 6 pairs, val of 6 pairs; tables: eyes, ears", ""),
        ("data set two", "val of 6 pairs, no validation; tables: eyes, ears", ""),
        ("mixture", "one 75.0%, two 25.0%", ""),
    ]
    plain = _recipe("loss.alpha=0", "loss.beta=0")
    assert training_data.look(plain, work) == [("data set train", "train of 6 pairs, val of 6 pairs; tables: none", "")]
    lacking = (MixedSet(name="one"), MixedSet(name="two", data=str(tmp_path / "gone")))
    first, second = training_data.look(_recipe("loss.alpha=0", "loss.beta=0", train=lacking), work)
    assert first[0] == "data set one"
    assert second[:2] == ("data set two", "not ready")
    assert "gone does not exist" in second[2]
    by_pairs = (MixedSet(name="one"), MixedSet(name="two", split="val"))
    assert training_data.look(_recipe("loss.alpha=0", "loss.beta=0", train=by_pairs), work)[-1] == (
        *("mixture", "one 50.0%, two 50.0%", ""),
    )


def test_sentence__what_an_epoch_is_and_nothing_of_what_is_not_there(work: Path, tmp_path: Path) -> None:
    few = ("train.batch=2", "train.steps=4", "train.warmup_steps=0")
    sets = (MixedSet(name="one", weight=3), MixedSet(name="two", split="val", weight=1))
    said = training_data.sentence(_recipe(*few, train=sets), work)
    assert "one 9 (75.0%; 1.5 passes over its 6 pairs); two 3 (25.0%" in said
    assert training_data.sentence(_recipe(*few), work) == ""
    gone = (MixedSet(name="one", weight=1), MixedSet(name="two", data=str(tmp_path / "gone"), weight=1))
    assert training_data.sentence(_recipe(*few, train=gone), work) == ""


def test_open_sets__the_recipe_s_validation_split_where_a_set_has_it(work: Path) -> None:
    free = ("loss.alpha=0", "loss.beta=0")
    other = make_work(work.parent / "other", images=2, captions=1, splits=("train",))
    sets = (MixedSet(name="one"), MixedSet(name="two", data=str(other)))
    one, two = training_data.open_sets(_recipe(*free, train=sets), work)
    assert one.val is not None
    assert (one.val.name, two.val, one.teachers) == ("val", None, {"image": "", "text": ""})
    chosen = (MixedSet(name="one", val="test"), MixedSet(name="two", data=str(other)))
    (one, _) = training_data.open_sets(_recipe(*free, train=chosen), work)
    assert one.val is not None
    assert one.val.name == "test"
    with pytest.raises(ConfigError, match=r"No data set of data\.train is validated"):
        training_data.open_sets(_recipe(*free, train=(MixedSet(name="one", val=""),)), work)
