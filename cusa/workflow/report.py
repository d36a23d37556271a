"""The report of runs, beside the last of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.storage import store


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
