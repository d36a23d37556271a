"""Training by a recipe: one student, or the parts of an ensemble and their mean."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cusa.errors import ConfigError, nearest
from cusa.manifests import batch_calibration, ledger, tables
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import is_remote, refuse_undecodable
from cusa.models import features
from cusa.recipe import Recipe
from cusa.train.data import caption_odds
from cusa.train.data.training import shares
from cusa.workflow import evaluate as scoring
from cusa.workflow import export as exporting
from cusa.workflow.mixture import training_data
from cusa.workflow.mixture.training_data import TrainingSet
from cusa.workflow.mixture.validation import metric_names, on_each

if TYPE_CHECKING:
    from cusa.models.students.base import Student
    from cusa.train.loop import Training


def train(
    recipe: Recipe,
    *,
    work: Path,
    out: Path,
    force: bool = False,
    resume: str = "auto",
    allow_changed: Sequence[str] = (),
    test: bool = False,
    callbacks: Callbacks = SILENT,
) -> Outcome:
    """Train what a recipe describes: one student, or the parts of an ensemble and their mean.

    Writes the run's folder: `recipe.json` (as resolved), `run.json` (on which data), `model`, `checkpoints`,
    `metrics.parquet`, `tensorboard`. Run again it goes on where it was, or is up to date. Started by `torchrun`, all
    ranks call it and rank 0 writes.

    An ensemble's parts (SGRAF: an SGR and an SAF) are runs of their own in `out/parts`; `out` then is a run like any
    other, whose model is their mean.

    Args:
        recipe: everything the run depends on besides the data.
        work: work folder with the splits and teachers that the recipe names; of several data sets, of those that name
            no folder.
        out: the run's folder.
        force: start anew.
        resume: `auto` goes on from the latest whole checkpoint or starts; `must` refuses to start without one.
        allow_changed: recipe keys in which the checkpoint may differ, also those of the splits and teachers.
        test: score the best model on the recipe's test split, once, when training is done.
        callbacks: called with every step and every row of metrics, and asked whether to stop.

    Raises:
        ConfigError: if an ensemble is to be trained on several ranks, or `train.monitor` is no metric of validation.
        CusaError: see `cusa.train.loop.run`.
    """
    if resume not in ("auto", "must"):
        raise ConfigError(f"--resume is {resume!r}; allowed: auto, must.", key="resume")
    _refuse_unknown_monitor(recipe, work)
    run = _Run(recipe, work, out, force, resume == "must", tuple(allow_changed), callbacks)
    return run.train_parts(test=test) if recipe.parts else run.train(test=test)


def _refuse_unknown_monitor(recipe: Recipe, work: Path) -> None:
    """Refuse a metric that no validation gives, before anything is loaded."""
    from cusa.eval.evaluate import validation_names

    names = metric_names(recipe.data, work, validation_names(recipe.eval))
    if recipe.train.monitor not in names:
        raise ConfigError(
            f"train.monitor is {recipe.train.monitor!r}, and validation has no such metric. "
            f"{nearest(recipe.train.monitor, names)}.",
            key="train.monitor",
        )


@dataclass(frozen=True)
class _Run:
    """One training, on this rank."""

    recipe: Recipe
    work: Path
    out: Path
    force: bool
    must_resume: bool
    allow_changed: tuple[str, ...]
    callbacks: Callbacks

    def train_parts(self, *, test: bool) -> Outcome:
        """Train an ensemble's parts, and write their mean."""
        from cusa.train import ranks

        recipe, out = self.recipe, self.out
        if ranks.started_together():
            raise ConfigError(
                f"{recipe.name} is the mean of {', '.join(part.name for part in recipe.parts)}. On several ranks train "
                "these, and join them with `cusa export --ensemble`.",
                recipe=recipe.name,
            )
        clock = ledger.Clock()
        parts = [replace(self, recipe=part, out=out / "parts" / part.name.partition("/")[0]) for part in recipe.parts]
        outcomes = {part.recipe.name: part.train(test=False) for part in parts}
        first, second = (str(part.out) for part in parts)
        mean = exporting.export(first, ensemble=second, to="folder", out=out / "model", force=self.force)
        stage = StageRun(
            "train",
            out / "ledger.json",
            inputs={part.recipe.name: store.sha256_folder(part.out / "model") for part in parts},
            parameters={"ensemble": list(outcomes)},
            reason="a part changed" if mean.fresh else None,
            clock=clock,
        )
        if stage.up_to_date:
            return stage.reuse()
        with stage.begin():
            store.write_json(out / "recipe.json", recipe.model_dump(mode="json"))
            store.write_json(out / "run.json", store.read_json(parts[0].out / "run.json"))
            outcome = stage.finish(
                outputs=[out / "recipe.json", out / "run.json", *store.files_below(out / "model")],
                counts={f"{name}/{key}": value for name, one in outcomes.items() for key, value in one.counts.items()},
                notes=tuple(note for one in outcomes.values() for note in one.notes),
            )
        if test:
            self._score()
        return outcome

    def train(self, *, test: bool) -> Outcome:
        """Train one student; started by `torchrun`, all ranks call it and rank 0 writes."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            outcome = self._train_if_due()
        else:
            from cusa.train import ranks

            with ranks.process_group(self.recipe.train.device):
                outcome = self._train_if_due()
        if test and os.environ.get("RANK", "0") == "0":
            self._score()
        return outcome

    def _score(self) -> None:
        """Score the best model on the recipe's test split."""
        data = training_data.unique_folders(self.recipe, self.work)
        request = scoring.EvalRequest(data=data, trust=self.recipe.student.classes)
        scoring.evaluate(str(self.out), request, on_event=self.callbacks.on_event)

    def _train_if_due(self) -> Outcome:
        recipe, out = self.recipe, self.out
        for work in training_data.unique_folders(recipe, self.work):
            refuse_undecodable(work if is_remote(work) else work.resolve())  # as run.json records it
        sets = training_data.open_sets(recipe, self.work)
        caption_odds.refuse_unknown(recipe.train.caption_odds, [one.split for one in sets])
        inputs = training_data.inputs(recipe, sets)
        before = ledger.read(out / "ledger.json")
        if before is not None:  # what it started from may be gone since; that changes no finished run
            inputs = {name: one for name, one in before.inputs.items() if training_data.is_start(name)} | inputs
        calibration = self._calibration(sets)
        if calibration is not None:
            inputs["the calibration"] = calibration.digest
        settings = self._settings(sets)
        stage = StageRun("train", out / "ledger.json", inputs=inputs, parameters=settings, force=self.force)
        if stage.up_to_date:
            return stage.reuse()

        from cusa.train import loop, ranks

        ranks.barrier()  # all have read the ledger
        new = not (out / "recipe.json").exists() and not (out / loop.CHECKPOINTS_FOLDER).exists()
        with stage.begin() if ranks.rank() == 0 else nullcontext():
            ranks.barrier()  # the first holds the folder
            try:
                return self._train(stage, sets, calibration)
            except ConfigError:
                if new and ranks.rank() == 0 and not (out / loop.CHECKPOINTS_FOLDER).exists():
                    _leave_nothing(out)
                raise

    def _calibration(self, sets: Sequence[TrainingSet]) -> BatchCalibration | None:
        """Return the calibration of a batch's pairs: the recipe's, or the shipped one that knows the teachers.

        Raises:
            ConfigError: if the loss needs one, and there is none.
            DataError, StaleError: if the recipe's cannot be read, or was fitted on other teachers.
        """
        loss = self.recipe.loss
        if not loss.needs_calibration:
            if loss.calibration:
                self.callbacks.on_message(
                    f"Nothing in this loss reads loss.calibration ({loss.calibration}): it is left alone. soft_labels "
                    "'calibrated', false_negatives 'debiased' and teacher_temperature 'audit' read one."
                )
            return None
        every = [
            {modality: tables.provenance(one.split, name) for modality, name in one.teachers.items()} for one in sets
        ]
        if loss.calibration:
            made = batch_calibration.read(Path(loss.calibration).expanduser())
            for stamps in every:
                made.refuse_others(stamps, loss.calibration)
            return made
        from cusa.pipeline.calibrate import in_batch

        shipped, teachers = in_batch.choose_shipped(every[0]), sets[0].teachers
        if shipped is None:
            known = ", ".join(path.stem for path in sorted(in_batch.FOLDER.glob("*.json")))
            raise ConfigError(
                f"This loss needs a calibration of a batch's pairs, and none that is shipped ({known}) was fitted on "
                f"{teachers['image']} and {teachers['text']}. Fit one on judged pairs with `cusa calibrate {self.work} "
                "--in-batch --out FILE`, and set loss.calibration=FILE.",
                key="loss.calibration",
            )
        return shipped

    def _settings(self, sets: Sequence[TrainingSet]) -> dict[str, Any]:
        """Return what of the recipe decides the run's weights, tables by the names that they have."""
        dump = self.recipe.model_dump(
            mode="json", exclude={"name", "description", "eval", "audit", "teachers", "expected", "parts"}
        )
        several = bool(self.recipe.data.sets)
        dump["data"] = {key: dump["data"][key] for key in ("train", "val", "test", *(["mix"] if several else []))}
        dump["loss"] = {key: value for key, value in dump["loss"].items() if key not in self.recipe.loss.FREE}
        dump["train"] = {key: value for key, value in dump["train"].items() if key not in self.recipe.train.FREE}
        dump["teachers"] = dict(sets[0].teachers)
        dump["student"]["heads"] |= {f"{modality}_table": table.table for modality, table in sets[0].features.items()}
        if several:  # where the sets lie does not count, their content does
            dump["data"]["train"] = shares([one.folder.weight for one in sets])
            dump["teachers"] = [dict(one.teachers) for one in sets]
        return dump

    def _describe(self, sets: Sequence[TrainingSet]) -> None:
        """Write down which recipe the run is of, and on which data."""
        store.write_json(self.out / "recipe.json", self.recipe.model_dump(mode="json"))
        changes = [change._asdict() for change in self.recipe.changes]
        run = {
            "data": str(sets[0].folder.work.resolve()),
            "teachers": dict(sets[0].teachers),
            "changes": changes,
        }
        mixture = training_data.described(sets)
        store.write_json(self.out / "run.json", {**run, "mixture": mixture} if mixture else run)

    def _data(
        self, sets: Sequence[TrainingSet], encoded: Mapping[str, str], calibration: BatchCalibration | None
    ) -> "Training":
        """Return what the loop trains on; `encoded` names the tables of frozen towers, by modality."""
        from cusa.train import loop

        each = tuple(
            loop.TrainingSplit(
                one.split,
                one.teachers,
                {modality: table.table for modality, table in one.features.items()} or encoded,
                calibration,
            )
            for one in sets
        )
        if not self.recipe.data.sets:
            return each[0]
        return loop.TrainingMixture(
            each,
            tuple(one.name for one in sets),
            tuple(one.folder.weight for one in sets),
            self.recipe.data.mix,
            calibration,
        )

    def _validation(self, sets: Sequence[TrainingSet]) -> Callable[["Student"], Mapping[str, float]]:
        """Return what validates a student: on the one split, or on each set's own."""
        from cusa.eval.evaluate import validate

        validated = [(one.name, one.val, one.features) for one in sets if one.val is not None]
        if self.recipe.data.sets:
            return on_each(validated, self.recipe.eval)
        return lambda student: validate(student, validated[0][1], self.recipe.eval)

    def _train(self, stage: StageRun, sets: Sequence[TrainingSet], calibration: BatchCalibration | None) -> Outcome:
        from cusa.models import student as students
        from cusa.train import loop, ranks

        recipe, out, first = self.recipe, self.out, ranks.rank() == 0
        loop.check(recipe.train, recipe.loss, self._data(sets, {}, calibration))  # before a student is loaded
        features = dict(sets[0].features)
        if first and (self.force or not (out / loop.CHECKPOINTS_FOLDER).is_dir()):
            self._describe(sets)  # else the loop first makes sure that the checkpoints belong to this recipe
        student = students.create(
            recipe.student,
            captions=_LazyCaptions([one.split for one in sets]),
            uni=bool(recipe.loss.beta),
            seed=recipe.train.seed,
            features=features or None,
        )
        if recipe.train.encode_once and not features:
            # Validation reads them as well; the saved student encodes pictures and texts itself.
            every = [split for one in sets for split in (one.split, one.val) if split is not None]
            student.features = self._encode_once(student, every)
        trained = loop.run(
            recipe.train,
            recipe.loss,
            student=student,
            data=self._data(sets, {kind: table.table for kind, table in student.features.items()}, calibration),
            out=out,
            start=loop.Start(
                force=self.force,
                must_resume=self.must_resume,
                allow_changed=self.allow_changed,
                settings={f"student.{key}": value for key, value in stage.parameters["student"].items()},
                digests={
                    name: one
                    for name, one in stage.inputs.items()
                    if name.startswith("the validation split") or training_data.is_start(name)
                },
            ),
            validate=self._validation(sets),
            callbacks=self.callbacks,
        )
        notes = (*trained.notes, *student.remarks())
        if not first:
            ranks.barrier()
            written = ledger.read(stage.ledger_path)
            assert written is not None
            return Outcome(stage.name, out, True, stage.why, written.counts, written.seconds, notes)
        self._describe(sets)
        monitored = {name: value for name, value in trained.best.items() if name == recipe.train.monitor}
        outcome = stage.finish(
            outputs=[
                out / "recipe.json",
                out / "run.json",
                out / loop.METRICS_FILE,
                *store.files_below(out / loop.MODEL_FOLDER),
            ],
            counts={
                "steps": trained.steps,
                "steps_done_now": trained.steps - trained.started_at,
                "best_step": trained.best_step,
                "parameters": sum(parameter.numel() for parameter in student.parameters()),
                **{f"val_{name}": round(value, 3) for name, value in monitored.items()},
            },
            notes=notes,
        )
        ranks.barrier()
        return outcome

    def _encode_once(self, student: "Student", splits: Sequence[Split]) -> dict[str, features.FeatureTable]:
        """Let the first rank compute what the student's frozen towers give; return the first split's tables."""
        from cusa.pipeline.extract import towers
        from cusa.train import ranks

        modalities: list[Literal["image", "text"]] = ["image", "text"]
        if self.recipe.train.augment.on and student.frozen("image"):
            modalities.remove("image")
            if ranks.rank() == 0:
                self.callbacks.on_message(
                    "The image tower is frozen, and train.augment changes its pictures from epoch to epoch: it is run "
                    "in every step (train.encode_once is left for images)."
                )
        teachers = towers.of_student(student, splits, device=self.recipe.train.device, modalities=modalities)
        if teachers and ranks.rank() == 0:
            names = " and ".join(teacher.modality for teacher in teachers)
            verb = "towers are" if len(teachers) > 1 else "tower is"
            self.callbacks.on_message(f"The {names} {verb} frozen: encoded once, steps read rows (train.encode_once).")
            for teacher in teachers:
                towers.run(teacher, splits, on_event=self.callbacks.on_event)
        ranks.barrier()
        return {teacher.modality: features.of_table(splits[0], teacher.name) for teacher in teachers}


def _leave_nothing(out: Path) -> None:
    """Remove what a training that was refused wrote before it knew; the lock takes the empty folder with it."""
    from cusa.train.metrics import METRICS_FILE, TENSORBOARD_FOLDER

    for name in ("recipe.json", "run.json", METRICS_FILE):
        (out / name).unlink(missing_ok=True)
    for name in (TENSORBOARD_FOLDER, "cache"):
        store.remove_folder(out / name)


class _LazyCaptions(Sequence[str]):
    """The captions of splits, read only for a student from scratch."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits

    def __len__(self) -> int:
        return sum(split.num_captions for split in self._splits)

    def __getitem__(self, index: Any) -> Any:
        return [text for split in self._splits for text in split.texts][index]

    def __iter__(self) -> Iterator[str]:
        return (text for split in self._splits for text in split.texts)
