"""Training by a recipe: one student, or the parts of an ensemble and their mean."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError
from cusa.manifests import ledger, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, outcome
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
    on_event: OnEvent = ignore,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train what a recipe describes; the arguments are `train_one`'s.

    An ensemble's parts (SGRAF: an SGR and an SAF) are runs of their own in `out/parts`; `out` then is a run as any
    other, whose model is their mean.

    Raises:
        ConfigError: if an ensemble is asked to train on several ranks.
        CusaError: see `cusa.train.loop.run`.
    """
    told = {"force": force, "resume": resume, "allow_changed": allow_changed}
    heard = {"on_event": on_event, "on_metrics": on_metrics, "should_stop": should_stop}
    if not recipe.parts:
        return train_one(recipe, work=work, out=out, test=test, **told, **heard)  # type: ignore[arg-type]
    from cusa.train import ranks

    if ranks.started_together():
        raise ConfigError(
            f"{recipe.name} is the mean of {', '.join(part.name for part in recipe.parts)}. On several ranks train "
            "these, and join them with `cusa export --ensemble`.",
            recipe=recipe.name,
        )
    clock = ledger.Clock()
    folders = [out / "parts" / part.name.partition("/")[0] for part in recipe.parts]
    done = [
        train_one(part, work=work, out=folder, **told, **heard)  # type: ignore[arg-type]
        for part, folder in zip(recipe.parts, folders, strict=True)
    ]
    first, second = map(str, folders)
    joined = exporting.export(first, ensemble=second, to="folder", out=out / "model", force=force)
    book = out / "ledger.json"
    inputs = {
        part.name: store.sha256_folder(folder / "model") for part, folder in zip(recipe.parts, folders, strict=True)
    }
    parameters = {"ensemble": [part.name for part in recipe.parts]}
    why = ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None and not joined.fresh:
        return outcome(out, old)
    store.write_json(out / "recipe.json", recipe.model_dump(mode="json"))
    store.write_json(out / "run.json", store.read_json(folders[0] / "run.json"))
    outputs = [out / "recipe.json", out / "run.json", *(file for file in (out / "model").rglob("*") if file.is_file())]
    counts = {
        f"{part.name}/{key}": value
        for part, one in zip(recipe.parts, done, strict=True)
        for key, value in one.counts.items()
    }
    written = clock.finish(book, stage="train", inputs=inputs, parameters=parameters, outputs=outputs, counts=counts)
    if test:
        scoring.evaluate(str(out), data=[work], on_event=on_event)
    notes = tuple(note for one in done for note in one.notes)
    return outcome(out, written, why=why or "a part changed", notes=notes)


def train_one(
    recipe: Recipe,
    *,
    work: Path,
    out: Path,
    force: bool = False,
    resume: str = "auto",
    allow_changed: Sequence[str] = (),
    test: bool = False,
    on_event: OnEvent = ignore,
    on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train the recipe's student on a work folder, validating on its validation split.

    Writes the run's folder: `recipe.json` (as resolved), `run.json` (on which data), `model`, `checkpoints`,
    `metrics.parquet`, `tensorboard`. Run again it goes on where it was, or is up to date. Started by `torchrun`, all
    ranks call it and rank 0 writes.

    Args:
        recipe: everything the run depends on besides the data.
        work: work folder with the splits and teachers the recipe names.
        out: the run's folder.
        force: start anew.
        resume: `auto` goes on from the latest whole checkpoint or starts; `must` refuses to start without one.
        allow_changed: recipe keys in which the checkpoint may differ, also those of the splits and teachers.
        test: score the best model on the recipe's test split, once, when training is done.
        on_event: hears of every step.
        on_metrics: hears every row of metrics.
        should_stop: when true, the step's checkpoint is written and StoppedError raised.

    Raises:
        CusaError: see `cusa.train.loop.run`.
    """
    if resume not in ("auto", "must"):
        raise ConfigError(f"--resume is {resume!r}; allowed: auto, must.", key="resume")
    told = (recipe, work, out, force, resume, allow_changed, on_event, on_metrics, should_stop)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        done = _train(*told)
    else:
        from cusa.train import ranks

        with ranks.joined(recipe.train.device):
            done = _train(*told)
    if test and os.environ.get("RANK", "0") == "0":
        scoring.evaluate(str(out), data=[work], on_event=on_event)
    return done


def _train(
    recipe: Recipe,
    work: Path,
    out: Path,
    force: bool,
    resume: str,
    allow_changed: Sequence[str],
    on_event: OnEvent,
    on_metrics: Callable[[int, Mapping[str, float]], None],
    should_stop: Callable[[], bool],
) -> Outcome:
    clock = ledger.Clock()
    split, val = Split(work, recipe.data.train), Split(work, recipe.data.val)
    inputs = {"the training split": split.digest, "the validation split": val.digest}
    names = {"image": "", "text": ""}
    if recipe.loss.alpha or recipe.loss.beta or recipe.loss.false_negatives == "mask":
        for modality, name in (("image", recipe.teachers.image), ("text", recipe.teachers.text)):
            names[modality] = tables.choose_teacher(split, modality, name)
            inputs[f"the {modality} teacher"] = tables.teacher_digest(split, names[modality])
    if recipe.loss.false_negatives == "positive":
        inputs["the verdicts"] = pair_judgements.read(split).digest
    told = recipe.model_dump(mode="json", exclude={"name", "description", "eval", "teachers", "expected", "parts"})
    told["data"] = {key: told["data"][key] for key in ("train", "val", "test")}
    told["train"] = {key: value for key, value in told["train"].items() if key not in recipe.train.FREE}
    told["teachers"] = names
    book = out / "ledger.json"
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=told)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(out, old)

    from cusa.eval.evaluate import validate
    from cusa.models import student as students
    from cusa.train import loop, ranks

    ranks.barrier()  # all have read the ledger
    first = ranks.rank() == 0
    if first:
        ledger.withdraw(book)

    def describe() -> None:
        if not first:
            return
        store.write_json(out / "recipe.json", recipe.model_dump(mode="json"))
        store.write_json(out / "run.json", {"data": str(work.resolve()), "teachers": names})

    if force or not (out / loop.CHECKPOINTS_FOLDER).is_dir():
        describe()  # else the loop first makes sure that the checkpoints belong to this recipe
    student = students.create(
        recipe.student, captions=_Later(split), uni=bool(recipe.loss.beta), seed=recipe.train.seed
    )
    done = loop.run(
        recipe.train,
        recipe.loss,
        student=student,
        split=split,
        out=out,
        teacher_image=names["image"],
        teacher_text=names["text"],
        digests={"the validation split": val.digest},
        also_settings={f"student.{key}": value for key, value in told["student"].items()},
        validate=lambda model: validate(model, val, recipe.eval),
        force=force,
        must_resume=resume == "must",
        allow_changed=allow_changed,
        on_event=on_event,
        on_metrics=on_metrics,
        should_stop=should_stop,
    )
    describe()
    counts = {
        "steps": done.steps,
        "steps_done_now": done.steps - done.started_at,
        "best_step": done.best_step,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        **{f"val_{name}": round(value, 3) for name, value in done.best.items() if name == recipe.train.monitor},
    }
    outputs = [out / "recipe.json", out / "run.json", out / loop.METRICS_FILE]
    outputs += [file for file in (out / loop.MODEL_FOLDER).rglob("*") if file.is_file()]
    if not first:
        ranks.barrier()
        written = ledger.read(book)
        assert written is not None
        return outcome(out, written, why=str(why), notes=done.notes)
    written = clock.finish(book, stage="train", inputs=inputs, parameters=told, outputs=outputs, counts=counts)
    ranks.barrier()
    return outcome(out, written, why=str(why), notes=(*done.notes, *student.remarks()))


class _Later(Sequence[str]):
    """A split's captions, read when somebody asks: only a student from scratch does."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return self._split.num_captions

    def __getitem__(self, index: Any) -> Any:
        return self._split.texts[index]
