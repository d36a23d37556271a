"""Blends of heads that went on learning, as a user makes them from the command line and with their guards."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cusa import recipe as recipes
from cusa.errors import BusyError, ConfigError, DataError, StoppedError
from cusa.eval import evaluate as evaluating
from cusa.eval.config import NOT_IN_THE_NUMBERS
from cusa.eval.evidence import Evidence
from cusa.manifests import lock, schemas
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import features
from cusa.models import student as students
from cusa.workflow import blend as blends
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from cusa.workflow.blend import BlendRequest, measures
from cusa.workflow.blend import stage as stages
from cusa.workflow.evaluated.model import open_model
from tests import worlds
from tests.cli.test_cli import cusa_here
from tests.workflow.test_train_heads import ENCODERS, FEW, _extract


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a world, the same world labelled without captions, a base and a run that goes on from it."""
    place = tmp_path_factory.mktemp("blends")
    work = worlds.make_work(place, images=12, captions=3)
    _extract(work)
    shutil.copytree(work, place / "labelled")
    shutil.rmtree(place / "labelled" / "test" / "teachers" / worlds.Words.name)  # it has captions no more
    folder = place / "labelled" / "test"
    split = Split(work, "test")
    colours = list(worlds.COLOURS)
    rows = split.samples.to_pylist()
    for number, row in enumerate(rows):
        row["label"] = f"{number % 4}.{colours[number % 4]}_wall"
    store.write_table(folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    store.write_table(folder / "captions.parquet", schemas.CAPTIONS.empty_table())
    training.train(recipes.load("tiny", [*FEW, *ENCODERS]), work=work, out=place / "base")
    more = [*FEW, *ENCODERS, f"student.name={place / 'base'}", "train.seed=5", "train.lr=0.05"]
    training.train(recipes.load("tiny", more), work=work, out=place / "run")
    return place


def _request(place: Path, out: Path, **fields: object) -> BlendRequest:
    asked = {
        "base": str(place / "base"),
        "run": str(place / "run"),
        "guards": [str(place / "labelled"), f"{place / 'work'}:train"],
        "grid": "0,0.5,1",
        "trust": ("tests.worlds:Colours", "tests.worlds:Words"),
        **fields,
    }
    return BlendRequest(out=out, **asked)  # type: ignore[arg-type]


def test_blend__from_the_command_line_measures_draws_and_exports(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "blend"
    options = ["--grid", "0:1:0.5", "--guard", str(place / "labelled"), "--choose", "0.25", "--out", str(out)]
    trust = ["--trust", "tests.worlds:Colours", "--trust", "tests.worlds:Words"]
    call = ("blend", place / "base", place / "run", *options, *trust)
    done = cusa_here(*call)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "RSUM, work val" in printed
    assert "top-1 accuracy, zero-shot, labelled test" in printed
    assert "chosen" in printed
    assert f"cusa eval {out}" in printed
    result = json.loads((out / "blend.json").read_text())
    assert [point["alpha"] for point in result["points"]] == [0.0, 0.25, 0.5, 1.0]
    assert result["chosen"]["alpha"] == 0.25

    page = (out / "blend.html").read_text()
    assert page.count("(chosen)</title>") == 1, "in the chart of the guard"

    ends = {0.0: "base", 1.0: "run"}
    for point in result["points"]:
        if point["alpha"] in ends:
            # Both ends score what the models themselves do.
            (alone,) = scoring.evaluate(
                str(place / ends[point["alpha"]]),
                scoring.EvalRequest(
                    data=[place / "work"], split="val", trust=trust[1::2], output_folder=tmp_path / f"{point['alpha']}"
                ),
            )
            assert point["values"][0] == pytest.approx(alone["tasks"]["cross-modal"]["metrics"]["rsum"], abs=1e-3)

    card = json.loads((out / "model" / "student.json").read_text())["blend"]
    assert card["alpha"] == 0.25
    assert card["base_digest"] == store.sha256_folder(place / "base" / "model")
    assert card["run_digest"] == store.sha256_folder(place / "run" / "model")
    assert card["run_digest"] in (out / "model" / "README.md").read_text()
    weights = [students.load(folder, trust=trust[1::2]).state_dict() for folder in (place / "base", place / "run", out)]
    for name, value in weights[2].items():
        assert torch.allclose(value, 0.75 * weights[0][name] + 0.25 * weights[1][name], atol=1e-6), name
    (scored,) = scoring.evaluate(
        str(out),
        scoring.EvalRequest(data=[place / "work"], split="val", trust=trust[1::2], output_folder=tmp_path / "e"),
    )
    assert scored["tasks"]["cross-modal"]["metrics"]["rsum"] == pytest.approx(
        result["points"][1]["values"][0], abs=1e-3
    )

    page = (out / "blend.html").read_text()
    assert page.count("<svg") == 1
    assert card["base_digest"] in page
    assert json.loads(cusa_here(*call, "--json").stdout) == result


def test_eval__zero_shot_classes_from_the_command_line(place: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a {}.\nthe {}, seen again\n")
    call = ("eval", place / "run", "--data", place / "labelled", "--tasks", "zero-shot", "--out", tmp_path / "eval")
    more = ("--set", f"templates={prompts}", "--trust", "tests.worlds:Colours", "--trust", "tests.worlds:Words")
    done = cusa_here(*call, *more)
    assert done.returncode == 0, done.stderr
    assert "'a photo of a {}.' and others" in done.stdout
    assert "mean accuracy over classes" in done.stdout
    task = json.loads((tmp_path / "eval" / "metrics.json").read_text())["tasks"]["zero-shot"]
    assert task["classes"] == 4
    assert task["metrics"]["top@1"] > 50, "heads that have learned the colours"
    refused = cusa_here(*call, "--set", f"templates={place / 'run' / 'run.json'}", *more[2:])
    assert refused.returncode == 1
    assert "is no prompt template" in refused.stderr


def test_blend__the_kept_rule_looks_at_guards_and_never_at_a_test_split(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--choose would choose by the test split .*labelled"):
        blends.run(_request(place, tmp_path / "a", choose="keep:1"))
    with pytest.raises(ConfigError, match="--choose would choose by the test split .*--split VAL"):
        blends.run(_request(place, tmp_path / "a", choose="best", split="test"))
    assert not (tmp_path / "a").exists()
    done = blends.run(_request(place, tmp_path / "b", choose="keep:0", guards=[f"{place / 'work'}:train"]))
    points = done.result["points"]
    allowed = [one for one in points if one["values"][1] >= points[0]["values"][1]]
    best = max(allowed, key=lambda one: (one["values"][0], -one["alpha"]))
    assert done.result["chosen"]["alpha"] == best["alpha"]


def test_blend__goes_on_with_the_points_that_are_missing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "blend", []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(StoppedError, match="after 2 points"):
        blends.run(_request(place, out), callbacks=Callbacks(should_stop=stop))
    assert not (out / "blend.json").exists()
    again = blends.run(_request(place, out))
    assert again.outcome.counts["measured_now"] == 1
    whole = blends.run(_request(place, tmp_path / "whole"))
    assert whole.outcome.counts["measured_now"] == 3
    assert again.result == whole.result
    assert not (out / "model").exists(), "no point was chosen"

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluating, "_embed", never)
    assert blends.run(_request(place, out)).outcome.fresh is False
    chosen = blends.run(_request(place, out, choose="0.5"))
    assert chosen.outcome.counts["measured_now"] == 0
    assert (out / "model" / "student.json").is_file()


def test_blend__one_writer_at_a_time(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "blend"
    out.mkdir()
    with (
        lock.holding(out / store.LOCK),
        ThreadPoolExecutor(1) as another,
        pytest.raises(BusyError),
    ):
        another.submit(blends.run, _request(place, out)).result()


def test_blend__start_is_the_model_that_the_run_went_on_from(place: Path, tmp_path: Path) -> None:
    request = _request(place, tmp_path / "a", base="start", grid="0", guards=[])
    by_name = _request(place, tmp_path / "b", grid="0", guards=[])
    assert blends.run(request).result["points"][0]["values"] == blends.run(by_name).result["points"][0]["values"]
    with pytest.raises(ConfigError, match="started from random weights"):
        blends.run(_request(place, tmp_path / "c", base="start", run=str(place / "base")))


def test_blend__bad_guards_are_named_before_a_model_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(students, "load", never)
    bare = tmp_path / "bare"
    shutil.copytree(place / "labelled", bare)
    split = Split(place / "work", "test")
    store.write_table(bare / "test" / "samples.parquet", split.samples)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo\n")
    for fields, error, message in (
        ({"guards": [str(bare)]}, DataError, "neither captions, for retrieval, nor labels"),
        ({"guards": [str(place / "none")]}, DataError, "does not exist"),
        ({"guards": [f"{place / 'work'}:dev"]}, DataError, "no split 'dev'"),
        ({"guards": [f"{place / 'work'}:val"]}, ConfigError, "named twice"),
        ({"settings": [f"templates={prompts}"]}, DataError, "'a photo' is no prompt template"),
        ({"data": place / "labelled", "split": "test"}, DataError, "has no captions"),
        ({"grid": "0:2:0.5"}, ConfigError, "outside 0 and 1"),
        ({"grid": "0.5,1", "choose": "keep:1"}, ConfigError, "does not hold 0"),
        ({"base": str(place / "nothing")}, DataError, "no"),
    ):
        with pytest.raises(error, match=message):
            blends.run(_request(place, tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()


def test_blend__of_other_architectures_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    wider = [*FEW, *ENCODERS, "student.heads.width=12", "train.steps=4"]
    training.train(recipes.load("tiny", wider), work=place / "work", out=tmp_path / "wide")
    with pytest.raises(DataError, match=r"differ in the heads.width of the card \(12 in the base, 8 in the run\)"):
        blends.run(_request(place, tmp_path / "out", base=str(tmp_path / "wide")))
    table = pq.read_table(place / "run" / "metrics.parquet")
    assert table.num_rows, "the run is as it was"


def test_blend__writes_over_neither_parent_nor_what_is_no_blend(place: Path, tmp_path: Path) -> None:
    before = [store.sha256_folder(place / name) for name in ("base", "run")]
    for out in (place / "base", place / "run", place / "run" / "model", place / "run" / "model" / "blend"):
        with pytest.raises(ConfigError, match="--out .* would be written over (BASE|RUN)"):
            blends.run(_request(place, out, choose="0.5", guards=[]))
    shutil.copytree(place / "base", tmp_path / "other")
    with pytest.raises(DataError, match="holds what `cusa train` wrote"):
        blends.run(_request(place, tmp_path / "other", choose="0.5", guards=[]))
    assert [store.sha256_folder(place / name) for name in ("base", "run")] == before
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "notes.txt").write_text("precious")
    with pytest.raises(DataError, match="is no blend's model"):
        blends.run(_request(place, tmp_path / "own", choose="0.5", guards=[]))
    assert (tmp_path / "own" / "model" / "notes.txt").is_file()


def test_blend__an_earlier_choice_leaves_no_model_behind(place: Path, tmp_path: Path) -> None:
    asked = {"guards": [], "grid": "0,1"}
    blends.run(_request(place, tmp_path / "out", choose="1", **asked))
    assert (tmp_path / "out" / "model" / "student.json").is_file()
    with pytest.raises(ConfigError, match="would be written over BASE"):  # its own model is a parent
        blends.run(_request(place, tmp_path / "out", base=str(tmp_path / "out" / "model"), choose="0", **asked))
    blends.run(_request(place, tmp_path / "out", **asked))
    assert not (tmp_path / "out" / "model").exists()


def test_blend__the_kept_rule_needs_a_guard_and_knows_the_runs_own_test_split(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="asks what guards lose, and none is named"):
        blends.run(_request(place, tmp_path / "a", choose="keep:1", guards=[]))
    shutil.copytree(place / "run", tmp_path / "run")
    recipe = store.read_json(tmp_path / "run" / "recipe.json")
    store.write_json(tmp_path / "run" / "recipe.json", {**recipe, "data": {**recipe["data"], "test": "train"}})
    (tmp_path / "run" / "ledger.json").unlink()
    asked = {"run": str(tmp_path / "run"), "guards": [f"{place / 'work'}:train"], "choose": "keep:1"}
    with pytest.raises(ConfigError, match="--choose would choose by the test split"):
        blends.run(_request(place, tmp_path / "a", **asked))


def test_blend__labels_that_name_no_class_are_said_and_a_broken_file_of_names_refused(
    place: Path, tmp_path: Path
) -> None:
    work = tmp_path / "ids"
    shutil.copytree(place / "work", work)
    split = Split(work, "val")
    rows = [{**row, "label": f"id_{number % 3}"} for number, row in enumerate(split.samples.to_pylist())]
    store.write_table(work / "val" / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    asked = {"guards": [f"{work}:val"], "grid": "0,1"}
    done = blends.run(_request(place, tmp_path / "a", **asked))
    assert any("measured by retrieval alone. The labels differ in their numbers" in one for one in done.result["notes"])
    names = tmp_path / "names.tsv"
    with pytest.raises(DataError, match="names of classes .* cannot be read"):
        blends.run(_request(place, tmp_path / "b", settings=[f"class_names={names}"], **asked))
    names.write_text("id_0\tred wall\n")
    with pytest.raises(DataError, match="has no name for the label 'id_1'"):
        blends.run(_request(place, tmp_path / "b", settings=[f"class_names={names}"], **asked))


def test_blend__depends_on_both_models_every_split_texts_and_what_is_in_the_numbers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedError(Exception):
        """What a stage is asked with, in place of work."""

    asked: list[dict[str, Any]] = []

    def begin(name: str, ledger: Path, **more: Any) -> None:
        asked.append({"name": name, "ledger": ledger, **more})
        raise AskedError

    monkeypatch.setattr(stages, "StageRun", begin)
    settings = ["top=5", "seed=3", "device=cpu", "cache_mib=1", "templates=clip-7"]
    with pytest.raises(AskedError):
        blends.run(_request(place, tmp_path / "out", choose="0.25", settings=settings, force=True))
    work = place / "work"
    splits = {"new": Split(work, "val"), "labelled": Split(place / "labelled", "test"), "train": Split(work, "train")}
    folders = {
        name: f"{split.work.name}-{split.name}-{store.digest(str(split.work.resolve()))[:6]}"
        for name, split in splits.items()
    }
    opened = open_model(str(place / "run"), settings)
    measured = {
        name: measures.Measured(Evidence.open(split), ("zero-shot",) if name == "labelled" else ("cross-modal",), True)
        for name, split in splits.items()
    }
    assert asked == [
        {
            "name": "blend",
            "ledger": tmp_path / "out/ledger.json",
            "inputs": {
                "base": store.sha256_folder(place / "base/model"),
                "run": store.sha256_folder(place / "run/model"),
                **{
                    folders[name]: store.digest(
                        [
                            one.evidence.digests,
                            measures.texts_digest(one, opened.config),
                            features.digests(one.split, opened.features),
                        ]
                    )
                    for name, one in measured.items()
                },
            },
            "parameters": {
                "layout": 1,
                "points": [0.0, 0.25, 0.5, 1.0],
                "choose": "0.25",
                "tasks": {folders[name]: list(one.tasks) for name, one in measured.items()},
                **opened.config.model_dump(mode="json", exclude=NOT_IN_THE_NUMBERS),
            },
            "force": True,
        }
    ]
