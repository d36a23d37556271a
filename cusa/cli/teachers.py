"""`cusa teachers`."""

from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Splits, Wait, Work, validated
from cusa.errors import DataError


def teachers(
    action: Annotated[Literal["probe"], typer.Argument(help="probe: what text teachers cannot tell apart.")],
    work: Work,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEACHER",
            help="Text teacher: its tables' name, or what loads it; repeatable. Default: all there are.",
        ),
    ] = None,
    split: Splits = None,
    edits: Annotated[int, typer.Option(help="Edited captions of each kind at most.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Captions a pass of the teacher.")] = 64,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Look into frozen teachers: how often a false edit of a caption is nearer to it than every true sibling."""
    from functools import cache

    from cusa.manifests import tables
    from cusa.manifests.origin import IMPORTED
    from cusa.manifests.samples import Split, splits
    from cusa.models.teachers import registry
    from cusa.pipeline import probe as probing
    from cusa.pipeline.config import ProbeConfig

    config = validated(ProbeConfig, edits=edits, batch_size=batch_size)
    load = cache(registry.load_teacher)
    outcomes = []
    with Console() as console:
        for opened in [Split(work, name) for name in split or splits(work)]:
            there = [name for name, modality in tables.teachers(opened).items() if modality == "text"]
            made_here = [name for name in there if tables.provenance(opened, name)["revision"] != IMPORTED]
            if not text and made_here:
                for name in sorted({*there} - {*made_here}):
                    console.say(f"{opened.name}: {name} was imported; only its own encoder could be probed. Left out.")
                there = made_here
            for wanted in text or there:
                table = tables.choose_teacher(opened, "text", wanted)
                loads = registry.resolve(opened, wanted, "text").loads
                if not loads:
                    raise DataError(
                        f"{opened.folder / 'teachers' / table} came from a folder that is not here. Give it with "
                        "--text FOLDER.",
                        teacher=table,
                    )
                outcomes.append(
                    probing.run(
                        config,
                        split=opened,
                        teacher=table,
                        name=loads,
                        load=load,
                        force=force,
                        on_event=console.event,
                    )
                )
    if not outcomes:
        raise DataError(f"{work} has no text teacher to probe. Run `cusa extract-teachers {work} --text NAME`.")
    report_outcomes(*outcomes, as_json=as_json)
