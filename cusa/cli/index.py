"""`cusa index`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import (
    AsJson,
    EngineAddress,
    EngineKind,
    Force,
    Splits,
    Trust,
    UnitRanges,
    UnitWorkers,
    Wait,
    Work,
    units_shared,
    validated,
)
from cusa.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from cusa.models.students.base import Student


def index(
    work: Work,
    split: Splits = None,
    teacher: Annotated[list[str] | None, typer.Option(help="Only this teacher; repeatable. Default: all.")] = None,
    student: Annotated[str, typer.Option(help="A student to embed and index too: a run, folder or hub name.")] = "",
    neighbours: Annotated[int, typer.Option(help="Neighbours a row, itself left out.")] = 50,
    method: Annotated[
        Literal["auto", "exact", "ivf", "hnsw"], typer.Option(help="How to search; auto: exact up to a million rows.")
    ] = "auto",
    memory: Annotated[float, typer.Option(help="GiB that an approximate index may take.")] = 8.0,
    latency: Annotated[float, typer.Option(help="Milliseconds a query of an approximate index may take.")] = 10.0,
    recall: Annotated[float, typer.Option(help="Share of the exact neighbours that it must find.")] = 0.95,
    trust: Trust = None,
    workers: UnitWorkers = None,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    unit_range: UnitRanges = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Find every row's nearest neighbours by each teacher, and keep the FAISS index; added rows are added to it.

    Example, by eight processes: cusa index WORK --workers 8
    """
    from cusa.manifests import tables
    from cusa.manifests.samples import Split, splits
    from cusa.models import source
    from cusa.pipeline.config import IndexConfig
    from cusa.pipeline.index import stage as stage
    from cusa.pipeline.index import student as student_index

    def load(name: str) -> "Student":
        from cusa.models import student as students

        return students.load(name, trust=trust or ())

    config = validated(IndexConfig, neighbours=neighbours, method=method, memory=memory, latency=latency, recall=recall)
    if student:
        source.refuse_missing(student)
    outcomes = []
    with Console() as console, units_shared(workers, engine, address, unit_range):
        for opened in [Split(work, name) for name in split or splits(work)]:
            there = tables.teachers(opened)
            if not there and not student:
                raise DataError(
                    f"{opened.folder} has no teacher to index. Run `cusa extract-teachers {work} --image TEACHER "
                    "--text TEACHER`.",
                    split=opened.name,
                )
            for wanted in teacher or there:
                name = tables.find_teacher(opened, "image", wanted) or tables.find_teacher(opened, "text", wanted)
                if not name:
                    raise ConfigError(
                        f"{opened.folder} has no teacher {wanted!r}. {nearest(wanted, there)}.", teacher=wanted
                    )
                outcomes.append(stage.run(config, split=opened, teacher=name, force=force, on_event=console.event))
            if student:
                outcomes.append(
                    student_index.run(
                        config, split=opened, student=student, force=force, on_event=console.event, load=load
                    )
                )
    if unit_range not in ("", "merge"):
        report_outcomes(*outcomes, as_json=as_json)
        return
    then = f'cusa search {work} "WORDS" --student {student}' if student else f"cusa audit {work}"
    report_outcomes(*outcomes, as_json=as_json, then=then)
