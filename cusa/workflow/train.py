"""Training by a recipe: one student, or the parts of an ensemble and their mean."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError
from cusa.manifests import ledger, tables
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.recipe import Recipe
from cusa.workflow import evaluate as scoring
from cusa.workflow import export as exporting


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

    An ensemble's parts (SGRAF: an SGR and an SAF) are runs of their own in `out/parts`; `out` then is a run like any
    other, whose model is their mean.

    Args:
        recipe: everything the run depends on besides the data.
        work: work folder with the splits and teachers that the recipe names.
        out: the run's folder.
        force: start anew.
        resume: `auto` goes on from the latest whole checkpoint or starts; `must` refuses to start without one.
        allow_changed: recipe keys in which the checkpoint may differ, also those of the splits and teachers.
        test: score the best model on the recipe's test split, once, when training is done.
        callbacks: called with every step and every row of metrics, and asked whether to stop.

    Raises:
        ConfigError: if an ensemble is to be trained on several ranks.
        CusaError: see `train_one`.
    """
    options = {"force": force, "resume": resume, "allow_changed": allow_changed}
    if not recipe.parts:
        return train_one(recipe, work=work, out=out, test=test, callbacks=callbacks, **options)  # type: ignore[arg-type]
    from cusa.train import ranks

    if ranks.started_together():
        raise ConfigError(
            f"{recipe.name} is the mean of {', '.join(part.name for part in recipe.parts)}. On several ranks train "
            "these, and join them with `cusa export --ensemble`.",
            recipe=recipe.name,
        )
    clock = ledger.Clock()
    folders = [out / "parts" / part.name.partition("/")[0] for part in recipe.parts]
    outcomes = [
        train_one(part, work=work, out=folder, callbacks=callbacks, **options)  # type: ignore[arg-type]
        for part, folder in zip(recipe.parts, folders, strict=True)
    ]
    first, second = map(str, folders)
    mean = exporting.export(first, ensemble=second, to="folder", out=out / "model", force=force)
    models = {
        part.name: store.sha256_folder(folder / "model") for part, folder in zip(recipe.parts, folders, strict=True)
    }
    stage = StageRun(
        "train",
        out / "ledger.json",
        inputs=models,
        parameters={"ensemble": [part.name for part in recipe.parts]},
        reason="a part changed" if mean.fresh else None,
        clock=clock,
    )
    if stage.up_to_date:
        return stage.reuse()
    with stage.begin():
        store.write_json(out / "recipe.json", recipe.model_dump(mode="json"))
        store.write_json(out / "run.json", store.read_json(folders[0] / "run.json"))
        outcome = stage.finish(
            outputs=[out / "recipe.json", out / "run.json", *store.files_below(out / "model")],
            counts={
                f"{part.name}/{key}": value
                for part, one in zip(recipe.parts, outcomes, strict=True)
                for key, value in one.counts.items()
            },
            notes=tuple(note for one in outcomes for note in one.notes),
        )
    if test:
        scoring.evaluate(
            str(out), scoring.EvalRequest(data=[work], trust=[recipe.student.kind]), on_event=callbacks.on_event
        )
    return outcome


def train_one(
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
    """Train the recipe's student on a work folder, validating on its validation split.

    Writes the run's folder: `recipe.json` (as resolved), `run.json` (on which data), `model`, `checkpoints`,
    `metrics.parquet`, `tensorboard`. Run again it goes on where it was, or is up to date. Started by `torchrun`, all
    ranks call it and rank 0 writes. The arguments are those of `train`.

    Raises:
        CusaError: see `cusa.train.loop.run`.
    """
    if resume not in ("auto", "must"):
        raise ConfigError(f"--resume is {resume!r}; allowed: auto, must.", key="resume")
    run = _Run(recipe, work, out, force, resume == "must", tuple(allow_changed), callbacks)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        outcome = run.train()
    else:
        from cusa.train import ranks

        with ranks.process_group(recipe.train.device):
            outcome = run.train()
    if test and os.environ.get("RANK", "0") == "0":
        scoring.evaluate(
            str(out), scoring.EvalRequest(data=[work], trust=[recipe.student.kind]), on_event=callbacks.on_event
        )
    return outcome


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

    def train(self) -> Outcome:
        recipe, out = self.recipe, self.out
        split, val = Split(self.work, recipe.data.train), Split(self.work, recipe.data.val)
        inputs = {"the training split": split.digest, "the validation split": val.digest}
        teachers = {"image": "", "text": ""}
        if recipe.loss.alpha or recipe.loss.beta or recipe.loss.false_negatives == "mask":
            for modality, name in (("image", recipe.teachers.image), ("text", recipe.teachers.text)):
                teachers[modality] = tables.choose_teacher(split, modality, name)
                inputs[f"the {modality} teacher"] = tables.teacher_digest(split, teachers[modality])
        if recipe.loss.false_negatives == "positive":
            inputs["the verdicts"] = pair_judgements.read(split).digest
        settings = self._settings(teachers)
        stage = StageRun("train", out / "ledger.json", inputs=inputs, parameters=settings, force=self.force)
        if stage.up_to_date:
            return stage.reuse()

        from cusa.train import ranks

        ranks.barrier()  # all have read the ledger
        with stage.begin() if ranks.rank() == 0 else nullcontext():
            ranks.barrier()  # the first holds the folder
            return self._train(stage, split, val, teachers)

    def _settings(self, teachers: Mapping[str, str]) -> dict[str, Any]:
        """Return what of the recipe decides the run's weights."""
        dump = self.recipe.model_dump(
            mode="json", exclude={"name", "description", "eval", "teachers", "expected", "parts"}
        )
        dump["data"] = {key: dump["data"][key] for key in ("train", "val", "test")}
        dump["train"] = {key: value for key, value in dump["train"].items() if key not in self.recipe.train.FREE}
        dump["teachers"] = dict(teachers)
        return dump

    def _describe(self, teachers: Mapping[str, str]) -> None:
        """Write down which recipe the run is of, and on which data."""
        store.write_json(self.out / "recipe.json", self.recipe.model_dump(mode="json"))
        store.write_json(self.out / "run.json", {"data": str(self.work.resolve()), "teachers": dict(teachers)})

    def _train(self, stage: StageRun, split: Split, val: Split, teachers: Mapping[str, str]) -> Outcome:
        from cusa.eval.evaluate import validate
        from cusa.models import student as students
        from cusa.train import loop, ranks

        recipe, out, first = self.recipe, self.out, ranks.rank() == 0
        loop.check(recipe.train, recipe.loss, split)  # before a student is loaded
        if first and (self.force or not (out / loop.CHECKPOINTS_FOLDER).is_dir()):
            self._describe(teachers)  # else the loop first makes sure that the checkpoints belong to this recipe
        student = students.create(
            recipe.student, captions=_LazyCaptions(split), uni=bool(recipe.loss.beta), seed=recipe.train.seed
        )
        trained = loop.run(
            recipe.train,
            recipe.loss,
            student=student,
            data=loop.TrainingSplit(split, teachers),
            out=out,
            start=loop.Start(
                force=self.force,
                must_resume=self.must_resume,
                allow_changed=self.allow_changed,
                settings={f"student.{key}": value for key, value in stage.parameters["student"].items()},
                digests={"the validation split": val.digest},
            ),
            validate=lambda model: validate(model, val, recipe.eval),
            callbacks=self.callbacks,
        )
        notes = (*trained.notes, *student.remarks())
        if not first:
            ranks.barrier()
            written = ledger.read(stage.ledger_path)
            assert written is not None
            return Outcome(stage.name, out, True, stage.why, written.counts, written.seconds, notes)
        self._describe(teachers)
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


class _LazyCaptions(Sequence[str]):
    """A split's captions, read only for a student from scratch."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return self._split.num_captions

    def __getitem__(self, index: Any) -> Any:
        return self._split.texts[index]
