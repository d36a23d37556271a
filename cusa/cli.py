"""The commands: parse, call one function, print.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed or stopped, 2 wrong usage. Heavy imports happen
inside the commands, so that `cusa --help` answers at once.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cusa.errors import ConfigError, CusaError, DataError, nearest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cusa.pipeline.engine import Engine
    from cusa.pipeline.stage import Outcome


# Read when torch's thread pool starts: threads that wait for each other sleep instead of spinning, which on a busy
# machine costs several times the work itself and on an idle one next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Commands(TyperGroup):
    """Turns a user's mistake into one message and an honest exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` shows the traceback of an error."""
        try:
            return super().invoke(ctx)
        except CusaError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _say(f"error: {error}")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        except KeyboardInterrupt:
            _say("stopped. What was finished is kept; run the same command again to go on.")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    name="cusa",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Image-text retrieval that knows its negatives are not all negative.",
)

Work = Annotated[Path, typer.Argument(metavar="WORK", help="Work folder that `cusa shard` wrote.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable. Default: all.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing changed.")]
EngineKind = Annotated[str, typer.Option("--engine", help="Where to work: local, or ray.")]
EngineAddress = Annotated[str, typer.Option("--address", help="Ray cluster: auto or host:port; empty starts one here.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override; repeatable.")]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    # SIGTERM stops as Ctrl-C does: unfinished files are removed on the way out.
    signal.signal(signal.SIGTERM, _interrupt)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("work/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the drawn data set and of both trainings.")] = 0,
) -> None:
    """Run the whole journey on drawn scenes: no network, no accelerator, no account."""
    from cusa import journey

    with _Console() as console:
        result = journey.demo(out, seed=seed, on_event=console.event, say=console.say)
    _print(result.summary)
    _print(f"\nreport: {result.report.resolve()}")


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="Data set; `cusa list datasets` shows them.")],
    out: Annotated[Path, typer.Option(help="Folder for the raw files.")],
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Bring a data set's raw files. `scenes` is drawn here and now, from a seed."""
    from cusa import journey

    with _Console() as console:
        outcome = journey.download(name, out=out, settings=settings or (), force=force, on_event=console.event)
    _report(outcome)


@app.command()
def shard(
    layout: Annotated[str, typer.Argument(help="How the source is laid out; `cusa list layouts` shows them.")],
    source: Annotated[Path, typer.Argument(help="The annotation file.")],
    images: Annotated[Path, typer.Option(help="Folder that the annotation's image paths start from.")],
    out: Annotated[Path, typer.Option(help="Work folder to write.")],
    max_images: Annotated[int, typer.Option(help="Images a tar at most.")] = 1000,
    max_pixels: Annotated[int, typer.Option(help="Images with more pixels are dropped undecoded.")] = 100_000_000,
    workers: Annotated[int, typer.Option(help="Processes; 0 = one a core.")] = 0,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write images and captions as deterministic WebDataset tars with Parquet tables beside them."""
    from cusa.pipeline import readers
    from cusa.pipeline import shard as stage
    from cusa.pipeline.config import ShardConfig

    config = _validated(ShardConfig, max_images=max_images, max_pixels=max_pixels, workers=workers)
    with _Console() as console:
        reading = readers.read(layout, source, images)
        where = _engine(engine, address)
        outcome = stage.run(config, reading=reading, out=out, force=force, engine=where, on_event=console.event)
    _report(outcome, as_json=as_json)


@app.command("extract-teachers")
def extract_teachers(
    work: Work,
    image: Annotated[list[str] | None, typer.Option(help="Image teacher: a name or folder; repeatable.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text teacher: a name or folder; repeatable.")] = None,
    split: Splits = None,
    transform: Annotated[str, typer.Option(help="Captions as the text teacher reads them: clean or none.")] = "clean",
    dtype: Annotated[str, typer.Option(help="Numbers in the tables: float16 or float32.")] = "float16",
    precision: Annotated[str, typer.Option(help="Numbers the model calculates with; auto: float16 on CUDA.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Items a pass of the teacher.")] = 64,
    weights: Annotated[str, typer.Option(help="File of a teacher's published weights, or its folder (Unicom).")] = "",
    import_: Annotated[
        Path | None, typer.Option("--import", help="Take features from this .npz, .npy or .parquet instead.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Of --import FILE.npy: a file with an identifier a line.")] = None,
    workers: Annotated[int, typer.Option(help="Processes, for example one a GPU; 0 = this one.")] = 0,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Embed every image and caption once with frozen uni-modal teachers."""
    from functools import cache, partial

    from cusa.manifests import store
    from cusa.manifests.samples import Split, splits
    from cusa.models.teachers import load_teacher
    from cusa.pipeline import extract, import_features
    from cusa.pipeline.config import ExtractConfig

    wanted = [("image", name) for name in image or ()] + [("text", name) for name in text or ()]
    if not wanted:
        raise ConfigError("Name at least one teacher: --image NAME or --text NAME; `cusa list teachers` shows them.")
    config = _validated(
        ExtractConfig,
        batch_size=batch_size,
        dtype=dtype,
        transform=transform,
        precision=precision,
        weights=weights,
        workers=workers,
    )
    if import_ is not None:
        if len(wanted) != 1:
            raise ConfigError("--import goes with one teacher's name: --image NAME or --text NAME.")
        features, sha256 = import_features.read_features(import_, ids), store.sha256_file(import_)
        with _Console() as console:
            outcomes = [
                import_features.run(
                    config,
                    split=Split(work, name),
                    features=features,
                    sha256=sha256,
                    teacher=wanted[0][1],
                    modality=wanted[0][0],
                    force=force,
                    on_event=console.event,
                )
                for name in split or splits(work)
            ]
        _report(*outcomes, as_json=as_json)
        return
    where = _engine(engine, address)
    # One teacher serves every split.
    load = cache(partial(load_teacher, weights=config.weights, precision=config.precision))
    with _Console() as console:
        outcomes = [
            extract.run(
                config,
                split=opened,
                teacher=teacher,
                modality=modality,
                force=force,
                engine=where,
                on_event=console.event,
                load=load,
            )
            for opened in [Split(work, name) for name in split or splits(work)]
            for modality, teacher in wanted
        ]
    _report(*outcomes, as_json=as_json)


@app.command()
def index(
    work: Work,
    split: Splits = None,
    teacher: Annotated[list[str] | None, typer.Option(help="Only this teacher; repeatable. Default: all.")] = None,
    neighbours: Annotated[int, typer.Option(help="Neighbours a row, itself left out.")] = 50,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find every row's nearest neighbours by each teacher, exactly, and keep the FAISS index."""
    from cusa.manifests import tables
    from cusa.manifests.samples import Split, splits
    from cusa.pipeline import index as stage
    from cusa.pipeline.config import IndexConfig

    config = _validated(IndexConfig, neighbours=neighbours)
    outcomes = []
    with _Console() as console:
        for opened in [Split(work, name) for name in split or splits(work)]:
            there = tables.teachers(opened)
            if not there:
                raise DataError(
                    f"{opened.folder} has no teacher to index. Run `cusa extract-teachers {work} --image TEACHER "
                    "--text TEACHER`.",
                    split=opened.name,
                )
            for name in teacher or there:
                if name not in there:
                    raise ConfigError(f"{opened.folder} has no teacher {name!r}. {nearest(name, there)}.", teacher=name)
                outcomes.append(stage.run(config, split=opened, teacher=name, force=force, on_event=console.event))
    _report(*outcomes, as_json=as_json)


@app.command()
def audit(
    work: Work,
    split: Splits = None,
    image: Annotated[str, typer.Option(help="Image teacher; `none` to do without. Default: the only one.")] = "",
    text: Annotated[str, typer.Option(help="Text teacher; `none` to do without. Default: the only one.")] = "",
    truth: Annotated[
        Path | None, typer.Option(help="Known matches: a table, or a folder of ECCV Caption / CxC files.")
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Depth of the neighbourhoods that are joined.")] = 50,
    minimum_score: Annotated[float, typer.Option(help="Candidates below are not written, 0 to 1.")] = 0.0,
    gallery: Annotated[int, typer.Option(help="Candidates shown as pictures.")] = 60,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find candidate false negatives: captions of other images that are probably true of an image."""
    from cusa.manifests.samples import Split, splits
    from cusa.pipeline import audit as stage
    from cusa.pipeline.config import AuditConfig

    config = _validated(AuditConfig, neighbours=neighbours, minimum_score=minimum_score, gallery=gallery)
    with _Console() as console:
        outcomes = [
            stage.run(
                config,
                split=Split(work, name),
                image=image,
                text=text,
                truth=truth,
                force=force,
                on_event=console.event,
            )
            for name in split or splits(work)
        ]
    _report(*outcomes, as_json=as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file.")],
    work: Annotated[Path, typer.Option("--data", help="Work folder with shards and teacher tables.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    settings: Settings = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on from the latest whole checkpoint, or start; must: never start without one.")
    ] = "auto",
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Recipe key in which the checkpoint may differ; repeatable."),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Score the best model on the test split at the end.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a student by a recipe; run again, it goes on where it was. For several ranks: torchrun -m cusa train ..."""
    from cusa import journey
    from cusa import recipe as recipes

    told = recipes.load(recipe, settings or ())
    with _Console() as console, _Stopping() as stopping:
        outcome = journey.train(
            told,
            work=work,
            out=out,
            force=force,
            resume=resume,
            allow_changed=allow_changed or (),
            test=test,
            on_event=console.event,
            on_metrics=console.metrics,
            should_stop=stopping.asked,
        )
    if os.environ.get("RANK", "0") == "0":
        _report(outcome, as_json=as_json)


@app.command("eval")
def eval_(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run, a model folder, or a hub name.")],
    data: Annotated[
        list[Path], typer.Option("--data", help="Work folder, STS folder, or ECCV Caption ground truth; repeatable.")
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="Names with commas, or all. Default: what the data allow.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split; default: the run's test split.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: `eval` in the run.")] = None,
    settings: Settings = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score a student: retrieval by own pairs and every known match, COCO, CxC, ECCV Caption, classes, STS."""
    from cusa import scoring

    with _Console() as console:
        results = scoring.evaluate(
            name,
            data=data,
            tasks=[task.strip() for names in tasks or () for task in names.split(",") if task.strip()],
            split=split,
            out=out,
            settings=settings or (),
            force=force,
            on_event=console.event,
        )
    if as_json:
        _json(results[0] if len(results) == 1 else results)
        return
    for result in results:
        _print_evaluation(result)


def _print_evaluation(result: Mapping[str, Any]) -> None:
    """Print one data folder's numbers, each task with its protocol."""
    state = "" if result["fresh"] else " (up to date)"
    where = result["out"] or "not kept, for want of --out"
    if "pairs" in result:
        size = f"{result['pairs']:,} pairs"
    else:
        size = (
            f"{result['split']}, {result['images']:,} images, {result['captions']:,} captions; ties: {result['ties']}"
        )
    _print(f"eval: {where}{state}: {result['student']} on {result['dataset']} {size}")
    for task, found in result["tasks"].items():
        if "unavailable" in found:
            _print(f"\n{task}: not available: {found['unavailable']}")
            continue
        _print(f"\n{task} ({found['space']} space, {found['queries']:,} queries): {found['protocol']}")
        intervals = found.get("intervals", {})
        _table(
            ("metric", "value", "95 % interval"),
            [
                (name, f"{value:.2f}", "{:.2f} to {:.2f}".format(*intervals[name]) if intervals.get(name) else "")
                for name, value in found["metrics"].items()
                if value is not None
            ],
        )


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a model folder, a checkpoint file, or a hub name.")
    ],
    to: Annotated[str, typer.Option(help="folder (ours), hf, or sentence-transformers.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    space: Annotated[str, typer.Option(help="sentence-transformers: cross or uni.")] = "cross",
    ensemble: Annotated[str, typer.Option(help="A second run: an SGR and an SAF become SGRAF.")] = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained student for another library, loaded again and compared to 1e-5, with a model card."""
    from cusa import journey

    with _Console():
        found = journey.export(name, to=to, out=out, space=space, ensemble=ensemble, force=force)
    _report(found, as_json=as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated runs; the first is the baseline.")],
    work: Annotated[Path | None, typer.Option("--data", help="Work folder; default: the one the run names.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the last run.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page, and the same tables as Markdown."""
    from cusa import journey

    written = journey.report(runs, work=work, out=out, force=force)
    if as_json:
        _json(vars(written))
    else:
        _print(f"report: {written.page}{'' if written.fresh else ' is up to date'}")


@app.command()
def sql(
    work: Work,
    query: Annotated[str, typer.Argument(help="One statement; without it, the views are shown.")] = "",
    runs: Annotated[list[Path] | None, typer.Option("--run", help="Run folder; default: `runs` beside WORK.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, json or markdown.")] = "table",
) -> None:
    """Ask in SQL: DuckDB with a typed view for each table, read only."""
    from cusa.pipeline.query import connect, render

    with connect(work, runs=runs) as database:
        answer = database.run(query) if query else database.overview()
    _print(render(answer, form).rstrip("\n"))
    for note in answer.notes:
        _say(note)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="datasets, layouts, recipes, teachers or drop-reasons.")],
    work: Annotated[Path | None, typer.Option("--data", help="Show what this work folder holds instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what there is to choose from, or what a work folder holds."""
    from cusa import journey

    header, rows = journey.catalogue(what, work)
    if as_json:
        _json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        _table(header, rows)


def _validated(model: type[Any], **values: Any) -> Any:
    """Make a configuration from options, its complaints turned into ours."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        found = error.errors()[0]
        option = "--" + str(found["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option} {found['input']}: {found['msg']}.", option=option) from None


def _engine(kind: str, address: str) -> "Engine":
    """Return the engine that the options name."""
    from cusa.pipeline.engine import Engine

    if kind not in ("local", "ray"):
        raise ConfigError(f"--engine {kind}: {nearest(kind, ('local', 'ray'))}.", option="--engine")
    return Engine(kind, address)  # type: ignore[arg-type]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 (the command line prints)


def _print(text: str) -> None:
    print(text)  # noqa: T201


def _json(value: Any) -> None:
    _print(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def _report(*outcomes: "Outcome", as_json: bool = False) -> None:
    """Print what stages did: a line each, or JSON."""
    if as_json:
        _json([{**vars(outcome), "counts": dict(outcome.counts)} for outcome in outcomes])
        return
    for outcome in outcomes:
        if not outcome.fresh:
            _print(f"{outcome.stage}: {outcome.out} is up to date")
            continue
        counts = ", ".join(f"{_number(value)} {name.replace('_', ' ')}" for name, value in outcome.counts.items())
        _print(f"{outcome.stage}: {outcome.out} ({outcome.why}; {outcome.seconds:.1f} s): {counts}")
        for note in outcome.notes:
            _print(f"  {note}")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a plain aligned table to stdout."""
    lines = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        _print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


class _Stopping:
    """Turns the first SIGTERM or Ctrl-C into a wish that the training loop grants at the next step."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        _say("stopping after this step; once more stops at once")

    def asked(self) -> bool:
        """Tell whether a signal came."""
        return self._asked


class _Console:
    """Progress on stderr: bars on a terminal, plain lines elsewhere."""

    EVERY = 3.0  # seconds between two plain lines of the same work

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}
        self._start = time.monotonic()

    def __enter__(self) -> "_Console":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work is."""
        if self._progress is not None:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=total)
            self._progress.update(self._tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        if done == total or now - self._last.get(what, 0.0) >= self.EVERY:
            self._last[what] = now
            _say(f"[{now - self._start:6.1f} s] {what}: {done:,}/{total:,}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show a validation between the bars."""
        shown = {name: value for name, value in values.items() if name in ("val.rsum",)}
        if shown:
            self.say(f"step {step:,}: " + ", ".join(f"{name} {value:.1f}" for name, value in shown.items()))

    def say(self, text: str) -> None:
        """Show a sentence between the bars."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            _say(f"[{time.monotonic() - self._start:6.1f} s] {text}")


def main() -> None:
    """Run the command line."""
    app()
