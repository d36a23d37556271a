"""The report of runs, beside the last of them."""

from collections.abc import Sequence
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store


def report(
    runs: Sequence[Path],
    *,
    work: Path | None = None,
    out: Path | None = None,
    sweep: Path | None = None,
    force: bool = False,
) -> Outcome:
    """Write the report of evaluated runs, the first being the baseline.

    Args:
        runs: run folders.
        work: the work folder; the one the first run was trained on when None.
        out: the HTML file; `report.html` in the last run's folder when None.
        sweep: folder of a sweep, for its frontier.
        force: write it again.

    Returns:
        The outcome; `out` is the HTML file, the Markdown lies beside it.

    Raises:
        DataError: if a run was not evaluated, or they were evaluated on different splits.
    """
    from cusa.eval import report as reporting

    for run in runs:
        if not run.is_dir():
            raise DataError(f"There is no run {run}. Give the --out of a `cusa train`.", path=run)
    if work is None and (runs[0] / "run.json").is_file():
        work = Path(store.read_json(runs[0] / "run.json")["data"])
    return reporting.run(runs, out=out or runs[-1] / "report.html", work=work, sweep=sweep, force=force)
