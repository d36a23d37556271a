"""An ensemble by recipe: its parts are runs, its scores their mean, and what changes is trained again."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cusa import recipe as recipes
from cusa.errors import ConfigError, StaleError
from cusa.eval import evaluate as evaluating
from cusa.manifests import batch_calibration, tables
from cusa.manifests.events import Callbacks
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from cusa.train import loop
from cusa.workflow import evaluate as scoring
from cusa.workflow import train as training
from tests import worlds
from tests.cli import calls
from tests.eval.seers import Seer
from tests.manifests.judgements.test_verdicts import make

FEW = [
    *(text for text in recipes.smoke_settings("sgraf") if not text.startswith(("teachers.", "data."))),
    *("train.steps=2", "train.batch=8", "train.validate_every=2", "eval.bootstrap=0"),
]


def test_train__sgraf_scores_by_the_mean_of_its_parts(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=8, captions=2)
    told = recipes.load("sgraf/coco/baseline", [*FEW, "data.test=test"])
    done = training.train(told, work=work, out=tmp_path / "run", test=True)
    assert done.fresh
    assert {name.rpartition("/")[0] for name in done.counts} == {"sgr/coco/baseline", "saf/coco/baseline"}
    folders = [tmp_path / "run", tmp_path / "run/parts/sgr", tmp_path / "run/parts/saf"]
    assert store.read_json(folders[0] / "recipe.json")["name"] == "sgraf/coco/baseline"
    for folder in folders:
        changes = store.read_json(folder / "run.json")["changes"]
        assert {change["key"]: change["set"] for change in changes}["train.batch"] == "8"
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8))
    scores = []
    for folder in folders:
        student = students.load(folder).eval()
        arrays = torch.from_numpy(np.stack([student.image_array(_image(picture)) for picture in pictures.numpy()]))
        with torch.inference_mode():
            image = student.image_parts(student.pixels(arrays))
            text = student.text_parts(student.tokenize(["a red wall", "a green wall", "a blue wall"]))
            scores.append(student.pair_scores(image, text))
    torch.testing.assert_close(scores[0], (scores[1] + scores[2]) / 2)
    assert (tmp_path / "run/eval/metrics.json").is_file()
    assert not training.train(told, work=work, out=tmp_path / "run").fresh
    (found,) = scoring.evaluate(str(tmp_path / "run"), scoring.EvalRequest(data=[work]))
    assert not found["fresh"]


def test_train__a_work_folder_that_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    work = worlds.make_work(tmp_path / "world", images=2, captions=1)
    other = tmp_path / os.fsdecode(b"w\xe9")
    shutil.move(work, other)
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        training.train(
            recipes.load("tiny", ["loss.alpha=0", "loss.beta=0"]), work=tmp_path / "link", out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_train__an_unknown_monitor_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for monitor, words in (
        ("rsums", "Did you mean 'rsum'"),
        ("image-to-text/r@2", r"Did you mean 'image-to-text/r@\d+'\? Allowed: image-to-text/.*r@1, .*rsum"),
        ("image-to-text/r@10", r"Allowed: image-to-text/median_rank, image-to-text/r@1, "),
    ):
        for name in ("tiny", "sgraf/coco/cusa"):
            told = recipes.load(name, [f"train.monitor={monitor}", "eval.ks=[1,5]"])
            with pytest.raises(ConfigError, match=rf"train\.monitor is '{monitor}'.*{words}"):
                training.train(told, work=tmp_path / "nowhere", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('train.freeze=["nothing"]', "train.freeze names 'nothing'"),
        ("train.batch=900", "batch"),
        ("loss.infonce_weight=0", "All weights of the loss are 0"),
    ],
)
def test_train__a_training_that_is_refused_leaves_no_folder(tmp_path: Path, setting: str, words: str) -> None:
    work = worlds.make_work(tmp_path / "world", images=8, captions=2)
    few = ["loss.alpha=0", "loss.beta=0", "train.batch=8", "train.steps=2", "train.warmup_steps=0"]
    told = recipes.load("tiny", [*few, setting])
    with pytest.raises(ConfigError, match=words):
        training.train(told, work=work, out=tmp_path / "runs/july/run")
    assert not (tmp_path / "runs").exists()


def _image(pixels: np.ndarray) -> object:
    from PIL import Image

    return Image.fromarray(pixels)


def test_train__an_ensemble_on_several_ranks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="On several ranks train these"):
        training.train(recipes.load("sgraf/coco/cusa", FEW), work=tmp_path, out=tmp_path / "run")


class Asked:
    """A training that is asked what it depends on and not done."""

    def __init__(self, work: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._work, self._out = work, out
        self.said: list[str] = []
        self._stages: list[StageRun] = []

        def note(run: object, stage: StageRun, *more: object) -> Outcome:
            self._stages.append(stage)
            return Outcome("train", out, True, stage.why, {}, 0.0)

        monkeypatch.setattr(training._Run, "_train", note)

    def __call__(self, *settings: str) -> StageRun:
        told = recipes.load("tiny", [*NO_TEACHERS, *settings])
        callbacks = Callbacks(on_message=self.said.append)
        training.train(told, work=self._work, out=self._out, callbacks=callbacks)
        return self._stages[-1]


NO_TEACHERS = ["loss.alpha=0", "loss.beta=0"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder with two teachers, `colours` and `words`."""
    work = worlds.make_work(tmp_path_factory.mktemp("taught"), images=4, captions=2)
    for teacher, modality in ((worlds.Colours(), "image"), (worlds.Words(), "text")):
        extract.run(
            ExtractConfig(),
            split=Split(work, "train"),
            teacher=teacher.name,
            modality=modality,
            load=lambda *_, one=teacher: one,
        )
    return work


@pytest.fixture
def asked(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    work = Path(shutil.copytree(taught, tmp_path / "work", copy_function=shutil.copy2))
    return Asked(work, tmp_path / "run", monkeypatch)


def test_train__what_a_run_depends_on_by_its_loss(asked: Asked, tmp_path: Path) -> None:
    work = tmp_path / "work"
    train, val = Split(work, "train"), Split(work, "val")
    splits = {"the training split": train.digest, "the validation split": val.digest}
    plain = asked()
    assert plain.inputs == splits
    assert plain.parameters["teachers"] == {"image": "", "text": ""}
    with_teachers = asked("loss.alpha=0.1")
    teachers = {f"the {modality} teacher": tables.teacher_digest(train, name) for modality, name in TEACHERS.items()}
    assert with_teachers.inputs == {**splits, **teachers}
    assert with_teachers.parameters["teachers"] == TEACHERS
    other = asked("data.train=test", "data.val=train")
    assert other.inputs == {"the training split": Split(work, "test").digest, "the validation split": train.digest}
    positive = "loss.false_negatives=positive"
    assert asked(positive).inputs["the verdicts"] == pair_judgements.read(train).digest
    (work / "train/audit").mkdir()
    with Journal(work / "train/audit") as journal:
        journal.append(make(1, image_key=train.image_keys[0], caption_key=train.caption_keys[5]))
    said = asked(positive).inputs
    assert said == {**splits, "the verdicts": pair_judgements.read(train).digest}
    assert asked("loss.alpha=0.1").inputs == with_teachers.inputs, "who reads no verdicts does not depend on them"


TEACHERS = {"image": "colours", "text": "words"}


def test_train__the_settings_that_decide_the_weights(asked: Asked) -> None:
    before = asked("loss.alpha=0.1").parameters
    assert before.keys() == {"student", "data", "loss", "train", "teachers"}
    assert before["data"] == {"train": "train", "val": "val", "test": "test"}
    told = recipes.load("tiny")
    assert before["loss"].keys() == {*told.loss.model_dump()} - {*told.loss.FREE}
    assert before["train"].keys() == {*told.train.model_dump()} - {*told.train.FREE}
    for same in ("eval.top=3", 'audit.splits=["val"]', "train.workers=3", "data.also=[]", "teachers.image=colours"):
        assert asked("loss.alpha=0.1", same).parameters == before, same
    for other in ("train.lr=0.5", "train.seed=9", "loss.alpha=0.2", "student.width=64", "data.test=val"):
        assert asked("loss.alpha=0.1", other).parameters != before, other


def test_train__a_calibration_is_the_recipe_s_own_and_of_these_teachers(asked: Asked, tmp_path: Path) -> None:
    calibrated = ("loss.alpha=0.1", "loss.soft_labels=calibrated")
    with pytest.raises(
        ConfigError, match=r"none that is shipped .* was fitted on colours and words\. Fit one on judged"
    ):
        asked(*calibrated)
    train = Split(tmp_path / "work", "train")
    stamps = {modality: tables.provenance(train, name) for modality, name in TEACHERS.items()}
    made = batch_calibration.BatchCalibration(
        stamps, {"image": 1.0, "text": 2.0}, {"image": 0.0, "text": 0.0}, -3.0, {}
    )
    path = tmp_path / "calibration.json"
    batch_calibration.write(path, made)
    stage = asked(*calibrated, f"loss.calibration={path}")
    assert stage.inputs["the calibration"] == made.digest
    assert asked.said == []
    unread = asked("loss.alpha=0.1", f"loss.calibration={path}")
    assert "the calibration" not in unread.inputs
    assert "Nothing in this loss reads loss.calibration" in asked.said[0]
    stamps["text"] = {**stamps["text"], "teacher": "others"}
    batch_calibration.write(path, replace(made, teachers=stamps))
    with pytest.raises(StaleError, match="was fitted on other teachers"):
        asked(*calibrated, f"loss.calibration={path}")


def test_train__resume_is_auto_or_must(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume is 'yes'; allowed: auto, must"):
        training.train(recipes.load("tiny"), work=tmp_path / "work", out=tmp_path / "run", resume="yes")


@dataclass
class _Loop:
    """Stands for the loop: what it was asked to do; it writes what a run leaves."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)

    def run(self, config: Any, loss: Any, **more: Any) -> loop.Trained:
        self.asked.append({"config": config, "loss": loss, **more})
        store.write_text(more["out"] / loop.METRICS_FILE, "rows")
        store.write_text(more["out"] / loop.MODEL_FOLDER / "weights", "weights")
        return loop.Trained(9, 4, 6, {"rsum": 123.45678, "other": 5.0}, {}, ("a note",), "seen")

    def create(self, config: Any, **more: Any) -> Any:
        self.created.append({"config": config, **more})
        return Seer()


@pytest.fixture
def looped(monkeypatch: pytest.MonkeyPatch) -> _Loop:
    made = _Loop()
    monkeypatch.setattr(loop, "run", made.run)
    monkeypatch.setattr(loop, "check", lambda *words: None)
    monkeypatch.setattr(students, "create", made.create)
    return made


def test_train__hands_everything_on_to_the_loop_and_writes_what_came_of_it(
    taught: Path, tmp_path: Path, looped: _Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, callbacks = tmp_path / "run", Callbacks(on_message=lambda text: None)
    told = recipes.load("tiny", ["loss.alpha=0.1", "loss.beta=0.2", "train.seed=7", "train.encode_once=false"])
    more = {"resume": "must", "allow_changed": ["train.lr"], "callbacks": callbacks}
    done = training.train(told, work=taught, out=out, **more)  # type: ignore[arg-type]
    train, val = Split(taught, "train"), Split(taught, "val")
    (asked,) = looped.asked
    data, start = asked["data"], asked["start"]
    assert (asked["config"], asked["loss"], asked["out"], asked["callbacks"]) == (told.train, told.loss, out, callbacks)
    assert (data.split.folder, data.teachers, data.features, data.calibration) == (train.folder, TEACHERS, {}, None)
    student = {f"student.{key}": value for key, value in told.student.model_dump(mode="json").items()}
    assert start == loop.Start(False, True, ("train.lr",), student, {"the validation split": val.digest})
    (made,) = looped.created
    assert (made["config"], made["uni"], made["seed"], made["features"]) == (told.student, True, 7, None)
    assert (list(made["captions"]), len(made["captions"]), made["captions"][1]) == (train.texts, 8, train.texts[1])
    found = asked["validate"](Seer())
    assert found == evaluating.validate(Seer(), val, told.eval)
    counts = {"steps": 9, "steps_done_now": 5, "best_step": 6, "parameters": 24, "val_rsum": 123.457}
    assert (done.counts, done.notes) == (counts, ("a note",))
    assert store.read_json(out / "run.json") == {
        "data": str(taught.resolve()),
        "teachers": TEACHERS,
        "changes": [change._asdict() for change in told.changes],
    }
    assert store.read_json(out / "recipe.json") == told.model_dump(mode="json")
    written = {"recipe.json", "run.json", loop.METRICS_FILE, f"{loop.MODEL_FOLDER}/weights"}
    assert store.read_json(out / "ledger.json")["outputs"].keys() == written
    training.train(
        told.model_copy(update={"loss": told.loss.model_copy(update={"beta": 0.0})}), work=taught, out=out, force=True
    )
    assert (looped.asked[1]["start"].force, looped.asked[1]["start"].must_resume) == (True, False)
    assert looped.created[1]["uni"] is False


def test_train__the_test_split_is_scored_once_by_the_first_rank(
    taught: Path, tmp_path: Path, looped: _Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = calls.record(monkeypatch, scoring, "evaluate", [])
    told = recipes.load("tiny", ["loss.alpha=0.1", "train.encode_once=false"])
    callbacks = Callbacks()
    training.train(told, work=taught, out=tmp_path / "run", callbacks=callbacks)
    assert scored == []
    training.train(told, work=taught, out=tmp_path / "run", callbacks=callbacks, test=True)
    request = scoring.EvalRequest(data=[taught], trust=told.student.classes)
    assert scored == [{"name": str(tmp_path / "run"), "request": request, "on_event": callbacks.on_event}]
    monkeypatch.setenv("RANK", "1")
    training.train(told, work=taught, out=tmp_path / "run", test=True)
    assert len(scored) == 1
