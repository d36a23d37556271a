"""What needs several rooms at once: training with validation, evaluation of a run, the report, the demo.

Each function returns values and tells progress through `on_event`; none prints. `cusa.cli` calls them.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa import recipe as recipes
from cusa import scoring
from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import ledger, settled, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split, splits
from cusa.pipeline.stage import Outcome, outcome
from cusa.recipe import Recipe

SCENES = "drawn scenes with five captions each; every match between any two is known"
"""The data set `scenes`, which is made and not fetched."""


def download(
    name: str,
    *,
    out: Path,
    lock: Path | None = None,
    only_failed: bool = False,
    settings: Iterable[str] = (),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Bring a data set's raw files into `out`.

    Args:
        name: `scenes`, a packaged manifest, or the path of one.
        out: folder of the raw files.
        lock: digests that another machine recorded.
        only_failed: try only the files that failed the last time.
        settings: `key=value` of `ScenesConfig`, or of `DownloadConfig` for a manifest.
        force: bring it again.
        on_event: hears of every image, or of bytes.

    Raises:
        ConfigError: for an unknown data set or setting.
        DataError: if a file could not be fetched or a person has to bring it.
    """
    if name != "scenes":
        from cusa.manifests import datasets
        from cusa.pipeline import download as stage
        from cusa.pipeline.config import DownloadConfig

        if name not in datasets.names() and not name.endswith(".toml"):
            allowed = ("scenes", *datasets.names())
            raise ConfigError(f"There is no data set {name!r} to bring. {nearest(name, allowed)}", dataset=name)
        return stage.run(
            recipes.section(DownloadConfig, settings),
            dataset=datasets.load(name),
            out=out,
            lock=lock,
            only_failed=only_failed,
            force=force,
            on_event=on_event,
        )
    from cusa.pipeline import scenes
    from cusa.pipeline.config import ScenesConfig

    config = recipes.section(ScenesConfig, settings)
    clock = ledger.Clock()
    book = out / "ledger.json"
    parameters = {"dataset": name, **config.model_dump()}
    why = "--force" if force else ledger.why_not_current(book, inputs={}, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(out, old)
    with store.whole_folder(out) as folder:
        scenes.run(config, out=folder, on_event=on_event)
        for split in ("train", "val", "test"):
            store.write_table(folder / f"truth-{split}.parquet", scenes.load_truth(folder, split))
        files = [file for file in folder.glob("*") if file.is_file()]
        counts = {"images": config.train + config.val + config.test}
        done = clock.finish(
            folder / "ledger.json", stage="download", inputs={}, parameters=parameters, outputs=files, counts=counts
        )
    return outcome(out, done, why=str(why))


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
        inputs["the verdicts"] = settled.judged(split).digest
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


def export(name: str, *, to: str, out: Path, space: str = "cross", ensemble: str = "", force: bool = False) -> Outcome:
    """Write a student as a folder for other libraries, compared with the student once loaded again.

    Args:
        name: a run folder, a model folder, a checkpoint file, or a hub name.
        to: `folder` (our own), `hf`, `sentence-transformers` or `onnx`.
        out: the folder; replaced whole.
        space: of a sentence-transformers folder, `cross` or `uni`.
        ensemble: a second run; an SGR and an SAF become SGRAF.
        force: write it again.

    Raises:
        ConfigError: for another format or space, or a student that cannot be written so.
        DataError: if a model is not there, or the export gives other rows than the student.
    """
    from cusa.models import export as stage
    from cusa.models import student as students
    from cusa.models.sgraf import Sgraf

    if space not in ("cross", "uni"):
        raise ConfigError(f"There is no space {space!r}. {nearest(space, ('cross', 'uni'))}.", space=space)
    clock = ledger.Clock()
    book = out / "ledger.json"
    parts = [part for part in (name, ensemble) if part]
    inputs = {f"student {number}": _student_digest(part) for number, part in enumerate(parts, 1)}
    parameters = {"to": to, "space": space}
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(out, old)
    loaded = [students.load(part) for part in parts]
    student = loaded[0]
    if ensemble:
        one, other = loaded
        if not (isinstance(one, Sgraf) and isinstance(other, Sgraf)):
            raise ConfigError("--ensemble joins two runs of kind sgraf, one SGR and one SAF.", ensemble=ensemble)
        student = Sgraf.ensemble(one, other)
    facts: dict[str, Any] = {}
    for key, place in (("recipe", "recipe.json"), ("run", "run.json"), ("metrics", "eval/metrics.json")):
        if (Path(name) / place).is_file():
            facts[key] = store.read_json(Path(name) / place)
    facts["data"] = Path(facts.get("run", {}).get("data", "")).name
    stage.run(student, to, out, space=space, facts=facts)  # type: ignore[arg-type]
    counts = {"parameters": sum(parameter.numel() for parameter in student.parameters())}
    outputs = [file for file in out.rglob("*") if file.is_file()]
    done = clock.finish(book, stage="export", inputs=inputs, parameters=parameters, outputs=outputs, counts=counts)
    return outcome(out, done, why=str(why))


def _student_digest(name: str) -> str:
    path = Path(name)
    if (path / "model").is_dir():
        return store.sha256_folder(path / "model")
    if path.is_dir():
        return store.sha256_folder(path)
    return store.sha256_file(path) if path.is_file() else name


class _Later(Sequence[str]):
    """A split's captions, read when somebody asks: only a student from scratch does."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return self._split.num_captions

    def __getitem__(self, index: Any) -> Any:
        return self._split.texts[index]


@dataclass(frozen=True)
class Report:
    """Where a report lies."""

    page: Path
    """As HTML, one self-contained file."""
    markdown: Path
    fresh: bool
    """Whether it was written now."""


def report(
    runs: Sequence[Path],
    *,
    work: Path | None = None,
    out: Path | None = None,
    sweep: Path | None = None,
    force: bool = False,
) -> Report:
    """Write the report of evaluated runs, the first being the baseline.

    Args:
        runs: run folders.
        work: the work folder; the one the first run was trained on when None.
        out: the HTML file; `report.html` in the last run's folder when None.
        sweep: folder of a sweep, for its frontier.
        force: write it again.

    Raises:
        DataError: if a run was not evaluated, or they were evaluated on different splits.
    """
    from cusa.eval import report as stage

    for run in runs:
        if not run.is_dir():
            raise DataError(f"There is no run {run}. Give the --out of a `cusa train`.", path=run)
    if work is None and (runs[0] / "run.json").is_file():
        work = Path(store.read_json(runs[0] / "run.json")["data"])
    page, fresh = stage.run(runs, out=out or runs[-1] / "report.html", work=work, sweep=sweep, force=force)
    return Report(page, page.with_suffix(".md"), fresh)


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    report: Path
    """The page, as HTML."""
    summary: str
    """The numbers in a few lines, whichever way they fell."""


DEMO_TEACHERS = {"image": "offline-scenes-image", "text": "offline-scenes-text"}
DEMO_RECIPES = ("scenes-infonce", "scenes-cusa")


def demo(
    out: Path, *, seed: int = 0, on_event: OnEvent = ignore, say: Callable[[str], None] = lambda text: None
) -> Demo:
    """Run the whole journey on `scenes`: draw, shard, extract, index, audit, train twice, evaluate, report.

    Each step is the stage a user would run, on the same files; run again, finished steps are up to date.

    Args:
        out: folder for everything.
        seed: of the drawn data set and of both trainings.
        on_event: hears of every stage's progress.
        say: hears a sentence before each step.
    """
    from functools import cache

    from cusa.models.teachers import load_teacher
    from cusa.pipeline import audit, calibrate, extract, index, readers, shard
    from cusa.pipeline.config import AuditConfig, CalibrateConfig, ExtractConfig, IndexConfig, ShardConfig

    raw, work, runs = out / "raw", out / "data", out / "runs"
    say("Drawing the data set: 5,000 scenes, five captions each.")
    download("scenes", out=raw, settings=(f"seed={seed}",), on_event=on_event)
    say("Sharding: WebDataset tars and Parquet tables.")
    reading = readers.read("karpathy", raw / "dataset_scenes.json", raw)
    shard.run(ShardConfig(), reading=reading, out=work, on_event=on_event)
    say("Embedding every image and caption once, with two frozen uni-modal teachers.")
    load = cache(load_teacher)
    opened = [Split(work, name) for name in splits(work)]
    for split in opened:
        for modality, teacher in DEMO_TEACHERS.items():
            extract.run(ExtractConfig(), split=split, teacher=teacher, modality=modality, on_event=on_event, load=load)
    say("Indexing and auditing: which captions are true of images they do not belong to?")
    for split in opened:
        for teacher in DEMO_TEACHERS.values():
            index.run(IndexConfig(), split=split, teacher=teacher, on_event=on_event)
    judged, test = Split(work, "val"), Split(work, "test")
    sure = work / "calibration.json"  # val's truth stands for its ratings
    calibrate.run(CalibrateConfig(pairs=5000), split=judged, out=sure, on_event=on_event)
    audit.run(AuditConfig(), split=test, calibrated=sure, on_event=on_event)
    results = {}
    for number, name in enumerate(DEMO_RECIPES, 1):
        say(f"Training {number} of {len(DEMO_RECIPES)}: {name}, same seed, same steps.")
        train(recipes.load(name, [f"train.seed={seed}"]), work=work, out=runs / name, on_event=on_event)
        (results[name],) = scoring.evaluate(str(runs / name), data=[work], on_event=on_event)
    say("Writing the report.")
    written = report([runs / name for name in DEMO_RECIPES], work=work, out=out / "report.html")
    return Demo(written.page, _compare(results))


def _compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the main numbers of the runs side by side, with the difference of the last to the first."""
    wanted = (
        ("RSUM (R@1 + R@5 + R@10, both ways)", "cross-modal", "rsum"),
        ("R-Precision under every true match, image to text", "cross-modal-truth", "image-to-text/r_precision"),
        ("R-Precision under every true match, text to image", "cross-modal-truth", "text-to-image/r_precision"),
        ("R-Precision image to image (uni-modal)", "image-to-image", "r_precision"),
        ("R-Precision text to text (uni-modal)", "text-to-text", "r_precision"),
    )
    names = list(results)
    lines = [f"{'':52}" + "".join(f"{name:>16}" for name in names) + f"{'difference':>12}"]
    for words, task, metric in wanted:
        values = [results[name]["tasks"][task]["metrics"][metric] for name in names]
        shown = "".join(f"{value:16.2f}" for value in values)
        lines.append(f"{words:52}{shown}{values[-1] - values[0]:+12.2f}")
    return "\n".join(lines)


def catalogue(what: str, work: Path | None = None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a table of what there is to choose from.

    Args:
        what: `datasets`, `layouts`, `recipes`, `teachers` or `drop-reasons`.
        work: a work folder; then `teachers` are those whose tables lie there, and `drop-reasons` are counted.

    Returns:
        The header and the rows.

    Raises:
        ConfigError: if `what` is none of them.
    """
    from cusa.manifests.records import REASONS
    from cusa.models.teachers import CATALOGUE
    from cusa.pipeline.readers import READERS

    header: tuple[str, ...] = ("name", "what it is")
    tables_: dict[str, Callable[[], list[tuple[str, ...]]]] = {
        "datasets": lambda: [("scenes", SCENES, "", ""), *_datasets()],
        "layouts": lambda: [(name, _first_sentence(reader)) for name, reader in READERS.items()],
        "recipes": lambda: [(name, *_recipe_row(name)) for name in recipes.packaged()],
        "teachers": lambda: list(CATALOGUE.items()),
        "drop-reasons": lambda: list(REASONS.items()),
    }
    if what not in tables_:
        raise ConfigError(f"There is no list of {what!r}. {nearest(what, tables_)}", what=what)
    if work is None:
        more = {"datasets": ("counts", "licence"), "recipes": ("expected",)}
        return (*header, *more.get(what, ())), tables_[what]()
    if what == "teachers":
        opened = [Split(work, name) for name in splits(work)]
        found: list[tuple[str, ...]] = [
            (split.name, name, kind) for split in opened for name, kind in tables.teachers(split).items()
        ]
        return ("split", "teacher", "modality"), found
    if what == "drop-reasons":
        counted: dict[tuple[str, str, str], int] = {}
        for name in splits(work):
            for row in store.read_table(work / name / "drops.parquet").to_pylist():
                place = (name, row["kind"], row["reason"])
                counted[place] = counted.get(place, 0) + 1
        return ("split", "kind", "reason", "rows"), [(*place, str(rows)) for place, rows in sorted(counted.items())]
    raise ConfigError(f"--data does not go with {what!r}; it goes with teachers and drop-reasons.", what=what)


def _datasets() -> list[tuple[str, ...]]:
    """Return name, title, images a split, and terms of each packaged manifest."""
    from cusa.manifests import datasets

    rows: list[tuple[str, ...]] = []
    for name in datasets.names():
        told = datasets.load(name)
        counts = ", ".join(f"{split} {count.images:,}" for split, count in told.counts.items() if count.images)
        rows.append((name, told.title, counts, told.licence))
    return rows


def _recipe_row(name: str) -> tuple[str, str]:
    """Return what a recipe is, and the main ones of the figures it should come to."""
    told = recipes.load(name)
    main = [f"{metric} {value}" for metric, value in told.expected.items() if metric.endswith(("rsum", "average"))]
    return told.description, ", ".join(main)


def _first_sentence(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]
