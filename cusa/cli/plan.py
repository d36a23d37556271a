"""`cusa plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cusa.cli.console import print_json, print_table, print_text
from cusa.cli.options import AsJson, Settings, parse_path
from cusa.errors import ConfigError
from cusa.manifests.words import counted

if TYPE_CHECKING:
    from cusa.workflow.forecast.total import Total

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or the path of a TOML file.")]
ProjectFolder = Annotated[
    Path, typer.Option(parser=parse_path, help="Folder of the project: raw, data and runs go there.")
]
WorkThere = Annotated[
    Path | None,
    typer.Option("--data", parser=parse_path, help="A work folder that is there; nothing is brought or sharded then."),
]
RunName = Annotated[str, typer.Option("--name", help="The run's folder in runs; default: the recipe's name.")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="The same recipe on drawn scenes, with a tiny student of the same kind.")
]


Rows = Annotated[
    int | None, typer.Option("--rows", metavar="N", help="Plan a table of URLs of so many images instead, of any size.")
]
OwnLedgers = Annotated[
    list[Path] | None,
    typer.Option(
        "--from", parser=parse_path, help="With --rows: folder whose ledgers give your machine's rates; repeatable."
    ),
]
Captions = Annotated[int, typer.Option("--captions", help="With --rows: captions an image.")]
Machines = Annotated[int, typer.Option("--machines", help="With --rows: machines that share the units.")]
Cores = Annotated[int, typer.Option("--cores", help="With --rows: cores of a machine, for the packaged rates.")]
Memory = Annotated[float, typer.Option("--memory", help="With --rows: GiB of a machine.")]
Gbit = Annotated[float, typer.Option("--gbit", help="With --rows: Gbit a second that a machine can fetch.")]
ImageBytes = Annotated[
    int, typer.Option("--image-bytes", help="With --rows: bytes of an image as kept; 0 = by the ledgers, else 25,000.")
]
PriceHour = Annotated[float, typer.Option("--price-hour", help="With --rows: price of a machine's hour.")]
PriceTerabyte = Annotated[float, typer.Option("--price-terabyte", help="With --rows: price of a TB kept for a month.")]


_OF_ROWS = "--from, --captions, --machines, --cores, --memory, --gbit, --image-bytes, --price-hour and --price-terabyte"


def plan(
    recipe: RecipeName,
    out: ProjectFolder = Path("work"),
    work: WorkThere = None,
    name: RunName = "",
    settings: Settings = None,
    smoke: Smoke = False,
    rows: Rows = None,
    own: OwnLedgers = None,
    captions: Captions = 1,
    machines: Machines = 1,
    cores: Cores = 16,
    memory: Memory = 64.0,
    gbit: Gbit = 1.0,
    image_bytes: ImageBytes = 0,
    price_hour: PriceHour = 0.0,
    price_terabyte: PriceTerabyte = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show what `cusa run` would do: which stages are up to date and why not, bytes, time, disk, terms to accept.

    With --rows: what so many images take instead: units, hours, bytes, memory, money, and what breaks first.

    Example:
        cusa plan clip-vit-b-32/coco/cusa --rows 400000000 --machines 16 --cores 32 --set train.epochs=1
    """
    of_rows = (captions, machines, cores, memory, gbit, image_bytes, price_hour, price_terabyte)
    if rows is None:
        if own or of_rows != (1, 1, 16, 64.0, 1.0, 0, 0.0, 0.0):
            raise ConfigError(
                f"{_OF_ROWS} are read with --rows N alone, and it is not there. Give it.", option="--rows"
            )
    else:
        if work is not None or name or smoke or out != Path("work"):
            raise ConfigError(
                "--rows plans a table of URLs that is nowhere yet, so --out, --data, --name and --smoke have no part "
                "in it. Leave them out, or --rows; rates of what you have come with --from FOLDER.",
                option="--rows",
            )
        from cusa.workflow.forecast.stages import Job
        from cusa.workflow.forecast.total import forecast

        job = Job(rows, *of_rows)
        _print_forecast(forecast(recipe, job, settings=settings or (), ledgers=own or ()), as_json)
        return
    from cusa.workflow import plan as plans

    planned = plans.plan(recipe, out=out, work=work, name=name, settings=settings or (), smoke=smoke)
    if as_json:
        stages = [vars(stage) for stage in planned.stages]
        print_json({**vars(planned), "disk": planned.disk, "stages": stages})
        return
    table = [
        (
            stage.stage,
            stage.what,
            f"{stage.state}: {stage.why}" if stage.why else stage.state,
            _size(stage.bytes),
            _size(stage.disk),
            _time(stage.seconds),
        )
        for stage in planned.stages
    ]
    if planned.due:
        fetched = sum(stage.bytes or 0 for stage in planned.stages)
        seconds = sum(stage.seconds or 0 for stage in planned.stages)
        table.append(("all", "", "", _size(fetched or None), _size(planned.disk or None), _time(seconds or None)))
    print_text(f"{planned.recipe} in {planned.out}")
    print_table(("stage", "on", "state", "fetch", "disk", "time"), table)
    for stage in planned.stages:
        if stage.licence:
            print_text(f"\nterms of {stage.what}: {stage.licence}")
    for note in planned.notes:
        print_text(f"\n{note}")


def _print_forecast(total: "Total", as_json: bool) -> None:
    if as_json:
        stages = [{**vars(stage), "breaks_at": None} for stage in total.stages]
        sums = {name: getattr(total, name) for name in ("hours", "read", "written", "price", "price_month", "limits")}
        print_json({"recipe": total.recipe, "job": vars(total.job), "stages": stages, **sums, "notes": total.notes})
        return
    job = total.job
    table = [
        (
            stage.stage,
            stage.what,
            f"{stage.units:,}",
            _hours(stage.hours),
            _size(stage.read),
            _size(stage.written),
            _size(stage.memory),
        )
        for stage in total.stages
    ]
    table.append(("all", "", "", _hours(total.hours), _size(total.read), _size(total.written), ""))
    captions, machines = counted(job.captions, "caption"), counted(job.machines, "machine")
    images = "1 image" if job.rows == 1 else f"{job.rows:,} images"
    print_text(f"{total.recipe} over {images} with {captions} each, on {machines}")
    print_table(("stage", "on", "units", "time", "read", "written", "memory"), table)
    for stage in total.stages:
        if stage.source:
            print_text(f"rate of {stage.stage} {stage.what}: {stage.source}".replace(" :", ":"))
    if job.price_hour or job.price_terabyte:
        print_text(f"\n{total.price:,.0f} for the machines, {total.price_month:,.0f} a month for what is kept")
    for number, sentence in enumerate(total.limits):
        print_text(f"\n{'Breaks first: ' if not number else 'Then: '}{sentence}")
    for note in total.notes:
        print_text(f"\n{note}")


def _hours(hours: float | None) -> str:
    return "" if hours is None else _time(3600 * hours)


def _size(number: int | None) -> str:
    if number is None:
        return ""
    if number >= 1e12:
        return f"{number / 1e12:.1f} TB"
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
