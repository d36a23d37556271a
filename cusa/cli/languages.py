"""`cusa languages`."""

from typing import Annotated

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Splits, Wait, Work, validated


def languages(
    work: Work,
    split: Splits = None,
    only: Annotated[
        str, typer.Option(metavar="CODES", help="Languages that there may be, as en,de. Default: all 139 known.")
    ] = "",
    minimum: Annotated[float, typer.Option(help="Probability below which a caption's language is `und`.")] = 0.5,
    workers: Annotated[int, typer.Option(help="Processes; 0 = one a core.")] = 0,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Detect the language of every caption, offline: a table beside the captions, for SQL and `cusa shard subset
    --language en`. Short captions whose language nobody can tell are `und`.
    """
    from cusa.manifests.samples import Split, splits
    from cusa.pipeline import languages as stage
    from cusa.pipeline.config import LanguagesConfig

    codes = tuple(code.strip() for code in only.split(",") if code.strip())
    config = validated(LanguagesConfig, only=codes, minimum=minimum, workers=workers)
    with Console() as console:
        outcomes = [
            stage.run(config, split=Split(work, name), force=force, on_event=console.event)
            for name in split or splits(work)
        ]
    report_outcomes(*outcomes, as_json=as_json, then=f"cusa shard subset {work} --out PART --language en")
