"""Plan and run: a recipe from nothing to the report, asked before it is done; every packaged recipe smoked once."""

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cusa import recipe as recipes
from cusa.errors import ConfigError, DataError, StaleError
from cusa.eval.config import EvalConfig
from cusa.manifests import datasets, ledger, tables
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.pipeline import audit, extract, index, readers, shard
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ReadConfig, ShardConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.workflow import download as downloading
from cusa.workflow import evaluate as scoring
from cusa.workflow import plan as plans
from cusa.workflow import project as projects
from cusa.workflow import report as reporting
from cusa.workflow import run as runs
from cusa.workflow import stages
from cusa.workflow import train as training
from tests import worlds
from tests.cli import calls

COMPOSED = [name for name in recipes.packaged() if "/" in name]
FEW = ["train.steps=2", "train.batch=16", "train.validate_every=2", "train.log_every=1", "eval.bootstrap=0"]
NAMES = ["download", "shard", *["extract-teachers"] * 2, "index", "audit", "train", "eval", "report"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one project folder: all smokes share the drawn scenes and their teachers."""
    return tmp_path_factory.mktemp("project")


@pytest.mark.parametrize("name", COMPOSED)
def test_run__every_recipe_smokes(out: Path, name: str) -> None:
    done = runs.run(name, out=out, settings=FEW, smoke=True)
    assert math.isfinite(done.figures["cross-modal/rsum"])
    assert done.expected == {}, "published figures are not those of a smoke"
    assert done.notes == (projects.SMOKE,)
    assert done.report.is_file()
    assert all(outcome.fresh for outcome in done.outcomes[-3:]), "training, evaluation, report"
    # It is the recipe, but for its data and its size.
    folder = out / "smoke" / "runs" / name.replace("/", "-")
    used, told = store.read_json(folder / "recipe.json"), recipes.load(name).model_dump(mode="json")
    assert used["loss"] == told["loss"]
    assert used["student"]["kind"] == told["student"]["kind"]
    assert used["student"]["sgraf"]["module"] == told["student"]["sgraf"]["module"]
    assert {used["teachers"]["image"], used["teachers"]["text"]} == {"offline-scenes-image", "offline-scenes-text"}
    # What the method lacks is not computed.
    for run in sorted((folder / "parts").glob("*")) or [folder]:
        rows = pq.read_table(run / "metrics.parquet").to_pylist()
        logged = {row["name"] for row in rows if row["value"]}
        method = name.rpartition("/")[2]
        matching = told["student"]["kind"] == "x2vlm"  # there CSA is no term of its own
        assert ("usa" in logged) == (method in ("usa", "cusa"))
        assert ("csa" in logged) == (method in ("csa", "cusa") and not matching)
        assert students.load(run).has_uni == (method in ("usa", "cusa"))


def test_run__again_everything_is_up_to_date_and_the_plan_says_so(out: Path) -> None:
    settings = [*FEW, "train.steps=3"]
    first = runs.run("clip-vit-b-32/coco/cusa", out=out, name="three", settings=settings, smoke=True)
    again = runs.run("clip-vit-b-32/coco/cusa", out=out, name="three", settings=settings, smoke=True)
    assert not any(outcome.fresh for outcome in again.outcomes)
    assert again.figures == first.figures
    told = plans.plan("clip-vit-b-32/coco/cusa", out=out, name="three", settings=settings, smoke=True)
    assert [stage.stage for stage in told.stages] == NAMES
    assert not told.due


def test_run__evaluation_s_outcomes_are_its_own(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*FEW, "eval.seed=3"]
    done = runs.run("clip-vit-b-32/coco/baseline", out=out, name="own", settings=settings, smoke=True)
    (scored,) = [outcome for outcome in done.outcomes if outcome.stage == "eval"]
    written = ledger.read(scored.out / "ledger.json")
    assert written is not None
    assert (scored.fresh, scored.why, scored.counts, scored.seconds) == (
        *(True, "never finished", written.counts, written.seconds),
    )
    again = runs.run("clip-vit-b-32/coco/baseline", out=out, name="own", settings=settings, smoke=True)
    assert [(one.fresh, one.seconds) for one in again.outcomes if one.stage == "eval"] == [(False, 0.0)]

    def evaluate_folders(*arguments: object, **more: object) -> list[scoring.EvaluatedFolder]:
        return [
            scoring.EvaluatedFolder({"data": "here", "tasks": {}}, scored),
            scoring.EvaluatedFolder({"data": "there", "failed": "its captions are gone"}, None),
        ]

    monkeypatch.setattr(scoring, "evaluate_folders", evaluate_folders)
    with pytest.raises(DataError, match="there: its captions are gone"):
        runs.run("clip-vit-b-32/coco/baseline", out=out, name="own", settings=settings, smoke=True)


def test_run__other_settings_are_refused_and_force_trains_anew(out: Path) -> None:
    name = "saf/coco/usa"
    runs.run(name, out=out, name="changed", settings=FEW, smoke=True)
    with pytest.raises(StaleError, match="train.seed was 0 and is now 5"):
        runs.run(name, out=out, name="changed", settings=[*FEW, "train.seed=5"], smoke=True)
    done = runs.run(name, out=out, name="changed", settings=[*FEW, "train.seed=5"], smoke=True, force=True)
    fresh = [outcome.stage for outcome in done.outcomes if outcome.fresh]
    assert fresh == ["train", "eval", "report"]


def test_plan__says_why_and_what_follows(tmp_path: Path) -> None:
    runs.run("clip-vit-b-32/coco/csa", out=tmp_path, settings=FEW, smoke=True)

    def states(settings: list[str]) -> dict[str, str]:
        before = _bytes_of(tmp_path)
        told = plans.plan("clip-vit-b-32/coco/csa", out=tmp_path, settings=settings, smoke=True)
        assert _bytes_of(tmp_path) == before, "a plan writes nothing"
        return {stage.stage: stage.why for stage in told.due}

    assert states([*FEW, "loss.alpha=0.2"]) == {
        "train": "loss.alpha was 0.1 and is now 0.2",
        "eval": "after train",
        "report": "after train",
    }
    assert states([*FEW, "eval.top=3"]) == {"eval": "top was 10 and is now 3", "report": "after eval"}
    part = tmp_path / "smoke/data/scenes/train/teachers/offline-scenes-image/00000.parquet"
    part.unlink()
    assert states(FEW)["extract-teachers"] == "00000.parquet is missing"
    assert states(FEW)["train"] == "after extract-teachers"
    (tmp_path / "smoke/raw/scenes/dataset_scenes.json").write_text("{}")
    assert "instead of" in states(FEW)["download"]
    assert states(FEW)["shard"] == "after download"


def _bytes_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMPOSED)
def test_plan__of_every_recipe_before_anything_is_there(tmp_path: Path, name: str) -> None:
    told = plans.plan(name, out=tmp_path / "nowhere")
    expected = NAMES if not name.endswith("baseline") else ["download", "shard", "train", "eval", "report"]
    assert [stage.stage for stage in told.stages] == expected
    assert {stage.state for stage in told.stages} == {"due"}
    assert told.stages[0].why == "never finished"
    assert told.stages[0].licence
    assert not (tmp_path / "nowhere").exists()


def test_plan__estimates_are_counted_from_what_is_known(tmp_path: Path) -> None:
    told = {(stage.stage, stage.what): stage for stage in plans.plan("clip-vit-b-32/coco/cusa", out=tmp_path).stages}
    download = told["download", "coco"]
    assert download.bytes == 20_000_000_000
    tokens = told["extract-teachers", "unicom-vit-b-32-tokens"]
    assert tokens.disk == (113_287 + 5_000) * 37_632 * 2  # float16 rows of training and test images
    rates = plans.read_rates()
    steps = 30 * (113_287 * 5 // 128)
    training = told["train", "clip-vit-b-32/coco/cusa"]
    assert training.seconds == pytest.approx(steps * 128 / rates["train"]["clip-vit-b-32"]["pairs"])
    assert rates["machine"] in training.source
    measured = rates["train"]["clip-vit-b-32"]
    (reading,) = (stage for (stage_name, _), stage in told.items() if stage_name == "eval")
    assert reading.seconds == pytest.approx(5000 / measured["images"] + 25_000 / measured["captions"], rel=0.01)
    (found,) = (stage for (stage_name, _), stage in told.items() if stage_name == "audit")
    assert found.seconds == pytest.approx(5000 / rates["audit"]["images"])
    notes = " ".join(plans.plan("clip-vit-b-32/coco/cusa", out=tmp_path).notes)
    assert "cusa download cub" in notes
    assert rates["date"] in notes


def test_plan__an_evaluation_of_pairs_counts_them(tmp_path: Path) -> None:
    rates, seconds = plans.read_rates()["train"], {}
    for name in ("sgr", "saf", "sgraf", "x2vlm-base"):
        planned = plans.plan(f"{name}/coco/baseline", out=tmp_path).stages
        (seconds[name],) = (stage.seconds for stage in planned if stage.stage == "eval")
    for name in ("sgr", "saf"):
        every = 5000 * 25_000 / rates[name]["scores"]
        assert every < seconds[name] < 1.1 * every, "5K x 25K pairs are what takes the time"
    assert seconds["sgraf"] == pytest.approx(seconds["sgr"] + seconds["saf"])
    matched = recipes.load("x2vlm-base/coco/baseline").eval.rerank * 30_000 / rates["x2vlm-base"]["matches"]
    assert matched < seconds["x2vlm-base"]


def test_plan__a_file_that_a_person_has_to_bring_is_named(tmp_path: Path) -> None:
    notes = " ".join(plans.plan("clip-vit-b-32/flickr30k/baseline", out=tmp_path).notes)
    assert "flickr30k-images.tar.gz has to be brought by hand: Ask for the images with the form" in notes
    assert "No teacher is used" in notes


def test_run__on_a_work_folder_that_is_there(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=12, captions=3)
    told = [*recipes.smoke_settings("dual-encoder"), *FEW, "data.dataset="]
    settings = [text for text in told if not text.startswith("teachers.")]
    baseline = [*settings, *recipes.method_settings("baseline")]
    done = runs.run("tiny", out=tmp_path / "out", work=work, settings=baseline)
    assert [outcome.stage for outcome in done.outcomes] == ["train", "eval", "report"]
    blocked = plans.plan("tiny", out=tmp_path / "out", work=work, settings=settings).stages
    assert blocked[0].state == "blocked"
    assert "has no image teacher. Run `cusa extract-teachers" in blocked[0].why
    with pytest.raises(DataError, match="has no image teacher"):
        runs.run("tiny", out=tmp_path / "out", work=work, settings=settings)


def test_shard__captions_have_the_sources_that_the_recipe_says(tmp_path: Path) -> None:
    sizes = 'data.settings=["train=6","val=4","test=4"]'
    rules = 'data.caption_sources={"#3-4"="synthetic", ""="human"}'
    project = projects.open_project("scenes-cusa", tmp_path, settings=["data.dataset=scenes", sizes, rules])
    for stage in stages.of(project)[:2]:
        stage.do(SILENT)
    sources = Split(project.work, "train").captions["source"].to_pylist()
    assert sources == ["human"] * 3 + ["synthetic"] * 2 + sources[5:]
    assert len(sources) == 6 * 5
    others = 'data.caption_sources={"#4"="synthetic", ""="human"}'
    again = projects.open_project("scenes-cusa", tmp_path, settings=["data.dataset=scenes", sizes, others])
    states = plans.plan("scenes-cusa", out=tmp_path, settings=["data.dataset=scenes", sizes, rules]).stages
    assert [one.state for one in states[:2]] == ["up to date", "up to date"]
    states = plans.plan("scenes-cusa", out=tmp_path, settings=["data.dataset=scenes", sizes, others]).stages
    assert [one.state for one in states[:2]] == ["up to date", "due"], states[1].why
    stages.of(again)[1].do(SILENT)
    assert Split(project.work, "train").captions["source"].to_pylist()[:5] == ["human"] * 4 + ["synthetic"]
    smoke = projects.open_project("sgr/coco/cusa", tmp_path, settings=[rules], smoke=True)
    assert smoke.recipe.data.caption_sources == {}, "drawn scenes have captions of their own"


def test_open_project__what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no data set.*Give a work folder with --data"):
        projects.open_project("tiny", tmp_path)
    with pytest.raises(ConfigError, match="no small student of kind 'mine:Mean'"):
        projects.open_project("tiny", tmp_path, settings=["student.kind=mine:Mean"], smoke=True)


def test_run__killed_in_training_goes_on_and_ends_with_the_same_bits(tmp_path: Path, out: Path) -> None:
    settings = [*FEW, "train.steps=6", "train.validate_every=6", "train.checkpoint_every=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    name = "sgr/coco/cusa"
    whole = runs.run(name, out=out, name="whole", settings=settings, smoke=True)
    command = [sys.executable, "-c", "from cusa.cli import main; main()", "run", name, "--smoke", *options]
    shutil.copytree(out / "smoke" / "raw", tmp_path / "smoke" / "raw")
    shutil.copytree(out / "smoke" / "data", tmp_path / "smoke" / "data")
    folder = tmp_path / "smoke" / "runs" / "sgr-coco-cusa"
    with (tmp_path / "err").open("w") as log:
        process = subprocess.Popen([*command, "--out", str(tmp_path)], stderr=log, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(folder.glob("checkpoints/*"))) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "err").read_text()
    assert not (folder / "ledger.json").exists()
    done = runs.run(name, out=tmp_path, settings=settings, smoke=True)
    (trained,) = [outcome for outcome in done.outcomes if outcome.stage == "train"]
    assert 0 < trained.counts["steps_done_now"] < 6, "it went on from a checkpoint"
    assert not any(outcome.fresh for outcome in done.outcomes[:-3]), "what was finished was not done again"
    models = [path / "model" for path in (folder, out / "smoke/runs/whole")]
    assert store.sha256_folder(models[0]) == store.sha256_folder(models[1])
    assert done.figures == whole.figures


def _project(out: Path, *settings: str, recipe: str = "clip-vit-b-32/coco/cusa", **fields: Any) -> projects.Project:
    return projects.Project(recipes.load(recipe, settings), out, **fields)


def test_of__each_stage_is_the_single_command_with_the_recipe_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = _project(tmp_path, "eval.top=3", "eval.ks=[1,2]", 'data.settings=["workers=3"]', force=True)
    events = Callbacks(on_event=lambda what, done, total: None)
    brought = calls.record(monkeypatch, downloading, "download", calls.outcome("download"))
    read = calls.record(monkeypatch, readers, "read", "the reading")
    sharded = calls.record(monkeypatch, shard, "run", calls.outcome("shard"))
    trained = calls.record(monkeypatch, training, "train", calls.outcome("train"))
    reported = calls.record(monkeypatch, reporting, "report", calls.outcome("report"))
    summary = {"data": str(project.work), "dataset": "coco", "tasks": {"cross-modal": {"metrics": {"rsum": 7.0}}}}
    evaluated = [scoring.EvaluatedFolder(summary, calls.outcome("eval")), scoring.EvaluatedFolder(summary, None)]
    scored = calls.record(monkeypatch, scoring, "evaluate_folders", evaluated)
    by_name = {stage.name: stage for stage in stages.of(project)}
    assert [name for name, stage in by_name.items() if "train" in stage.needs] == ["eval", "report"]
    assert by_name["audit"].needs == ("shard", "extract-teachers", "index")
    results = {name: by_name[name].do(events) for name in ("download", "shard", "train", "eval", "report")}
    common = {"on_event": events.on_event}
    assert brought == [{"name": "coco", "out": tmp_path / "raw/coco", "settings": ("workers=3",), **common}]
    manifest = datasets.load("coco")
    source = {"source": project.raw / manifest.source, "images": project.raw / manifest.images}
    assert read == [{"layout": manifest.reader, **source, "config": ReadConfig(dataset="coco")}]
    assert sharded == [{"config": ShardConfig(), "reading": "the reading", "out": project.work, **common}]
    shown = {name: getattr(events, name) for name in ("on_event", "on_metrics", "on_message", "should_stop")}
    told = {"recipe": project.recipe, "work": project.work, "out": project.run, "force": True, "callbacks": shown}
    assert trained == [told]
    (one,) = scored
    request = one["request"]
    assert (one["name"], one["on_event"]) == (str(project.run), events.on_event)
    assert (request.data, request.force, request.trust) == ([project.work], True, project.recipe.student.classes)
    assert recipes.section(EvalConfig, request.settings) == project.recipe.eval
    assert results["eval"].figures == {"cross-modal/rsum": 7.0}
    (outcome,) = results["eval"].outcomes
    assert [note.partition(" is not there")[0] for note in outcome.notes] == list(project.recipe.data.also)
    assert reported == [{"runs": [project.run], "work": project.work, "out": project.run / "report.html"}]


def test_report__beside_the_baseline_of_the_same_student_where_that_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = calls.record(monkeypatch, reporting, "report", calls.outcome("report"))
    baseline = tmp_path / "runs/clip-vit-b-32-coco-baseline"
    store.write_json(baseline / "eval/metrics.json", {})
    for recipe in ("clip-vit-b-32/coco/cusa", "clip-vit-b-32/coco/baseline"):
        (stage,) = [one for one in stages.of(_project(tmp_path, recipe=recipe)) if one.name == "report"]
        stage.do(SILENT)
    assert [one["runs"] for one in reported] == [[baseline, tmp_path / "runs/clip-vit-b-32-coco-cusa"], [baseline]]


def test_extract_index_and_audit__of_the_splits_that_need_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = worlds.make_work(tmp_path / "world", images=2, captions=1)
    settings = ("teachers.image=eyes", "teachers.text=ears", "loss.alpha=0.1", 'audit.splits=["val"]', "data.dataset=")
    project = _project(tmp_path, *settings, recipe="tiny", given=work)
    extracted = calls.record(monkeypatch, extract, "run", calls.outcome("extract-teachers"))
    indexed = calls.record(monkeypatch, index, "run", calls.outcome("index"))
    audited = calls.record(monkeypatch, audit, "run", calls.outcome("audit"))
    monkeypatch.setattr(tables, "find_teacher", lambda split, kind, word: "")
    monkeypatch.setattr(tables, "choose_teacher", lambda split, kind, word="": f"{word} of {split.name}")
    every = stages.of(project)
    assert [stage.what for stage in every] == ["eyes", "ears", "val", "val", "tiny", work.name, "tiny"]
    for stage in every[:4]:
        stage.do(SILENT)
    splits = ("train", "test", "val")
    assert [(one["teacher"], one["modality"], one["split"]) for one in extracted] == [
        (teacher, modality, (work, split))
        for teacher, modality in (("eyes", "image"), ("ears", "text"))
        for split in splits
    ]
    assert {one["config"] for one in map(_hashable, extracted)} == {repr(ExtractConfig())}
    teachers = ("eyes of val", "ears of val")
    assert [(one["config"], one["split"], one["teacher"]) for one in indexed] == [
        (IndexConfig(), (work, "val"), teacher) for teacher in teachers
    ]
    assert [(one["config"], one["split"], one["encoders"]) for one in audited] == [
        (AuditConfig(), (work, "val"), Encoders(*teachers))
    ]
    gone = _project(tmp_path, *settings, 'audit.splits=["dev"]', recipe="tiny", given=work)
    with pytest.raises(ConfigError, match=r"audit\.splits names dev, which .* has not: there are train, val, test"):
        stages.of(gone)[2].do(SILENT)


def _hashable(call: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in call.items()}
