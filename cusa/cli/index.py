"""`cusa index`."""

from typing import Annotated

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Splits, Work, validated
from cusa.errors import ConfigError, DataError, nearest


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

    config = validated(IndexConfig, neighbours=neighbours)
    outcomes = []
    with Console() as console:
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
    report_outcomes(*outcomes, as_json=as_json)
