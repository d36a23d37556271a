"""`cusa doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import print_json, print_table, print_text
from cusa.cli.options import AsJson


def doctor(
    out: Annotated[Path, typer.Option(help="Where the work would go; its disk is looked at.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Show versions, cores, memory, disk, accelerator, extras and caches, and a hint for what is missing."""
    from cusa import doctor as checks

    found = checks.look(out)
    if as_json:
        print_json([vars(finding) for finding in found])
        return
    print_table(("what", "found"), [(finding.what, finding.found) for finding in found])
    for finding in found:
        if finding.hint:
            print_text(f"\n{finding.what}: {finding.hint}")
