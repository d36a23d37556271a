"""`cusa doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import print_json, print_table, print_text
from cusa.cli.options import AsJson, parse_path


def doctor(
    out: Annotated[
        Path, typer.Option(parser=parse_path, help="Where the work would go; its disk is looked at.")
    ] = Path(),
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="Look at the data sets that a recipe trains on as well.")
    ] = "",
    work: Annotated[
        Path | None, typer.Option("--data", parser=parse_path, help="Work folder of the data sets that name none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, cores, memory, disk, accelerator, extras and caches, and a hint for what is missing."""
    from cusa import doctor as checks

    findings = checks.look(out)
    if recipe:
        from cusa import recipe as recipes
        from cusa.workflow.mixture import training_data

        findings += [checks.Finding(*one) for one in training_data.look(recipes.load(recipe), work)]
    if as_json:
        print_json([{"what": one.name, "found": one.value, "hint": one.hint} for one in findings])
        return
    print_table(("what", "found"), [(finding.name, finding.value) for finding in findings])
    for finding in findings:
        if finding.hint:
            print_text(f"\n{finding.name}: {finding.hint}")
