"""The report of one or more runs: one self-contained HTML page, and the same tables as Markdown."""

from collections.abc import Sequence
from pathlib import Path

from cusa.errors import ConfigError, StaleError
from cusa.eval.report import compare, markdown, page
from cusa.eval.report import sweep as sweeps
from cusa.eval.report.runs import Run, read, refuse_changed, same_split
from cusa.manifests import ledger, pages
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import without_folders


def run(
    folders: Sequence[Path], *, out: Path, work: Path | None = None, sweep: Path | None = None, force: bool = False
) -> Outcome:
    """Write the report of runs that were evaluated on the same split.

    The first run is the baseline that the others are compared with.

    Args:
        folders: run folders, each with `eval/metrics.json`.
        out: the HTML file; the Markdown lies beside it.
        work: the work folder, for pictures, captions, the audit and the stages' times.
        sweep: folder of a `cusa sweep`, for its frontier.
        force: write again even if nothing changed.

    Returns:
        The outcome; `out` is the HTML file.

    Raises:
        ConfigError: if `out` does not end in .html.
        DataError: if a run was not evaluated, the runs were evaluated on different splits, or a file of a run or of
            the audit was changed after it was written.
        StaleError: if the work folder's split is not the one that was evaluated.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {out} names no HTML file. Write {out}.html, or {out}/report.html.", key="--out")
    stage_ledgers = _ledgers(work) if work is not None else []
    names = ("recipe.json", "ledger.json", "metrics.parquet", "eval/metrics.json", "eval/ledger.json")
    files = [folder / name for folder in folders for name in names] + [path for path, _ in stage_ledgers]
    files += [path for folder in folders for path in sorted((folder / "eval").glob("*/metrics.json"))]
    files += [sweep / "results.parquet"] if sweep is not None else []
    files += sorted(work.glob("*/probe/*.json")) if work is not None else []
    inputs = {str(path): store.sha256_file(path) for path in files if path.is_file()}
    parameters = {"runs": [str(folder) for folder in folders], "work": str(work), "sweep": str(sweep), "layout": 5}
    stage = StageRun(
        "report", out.with_suffix(".ledger.json"), out=out, inputs=inputs, parameters=parameters, force=force
    )
    if stage.up_to_date:
        for folder in folders:
            refuse_changed(folder)
        return stage.reuse()
    runs = [read(folder) for folder in folders]
    same_split(runs)
    split = Split(work, runs[0].result["split"]) if work is not None and work.is_dir() else None
    if split is not None and split.digest != runs[0].evaluated.inputs.get("split"):
        raise StaleError(
            f"{split.folder} is not what {runs[0].folder} was evaluated on: it was made again since, or it is another "
            f"work folder. Run `cusa eval {runs[0].folder} --data {work}` first, or name the right folder with --data.",
            path=split.folder,
        )
    differences = [compare.paired(runs[0].per_query, other.per_query, ks=runs[0].ks) for other in runs[1:]]
    settings = sweeps.read(sweep) if sweep is not None else []
    with stage.begin(lock_path=out.with_name(f".{out.name}.lock")):
        report = page.gather(runs, differences, split, stages=_stages(runs, stage_ledgers), settings=settings)
        store.write_text(out, pages.render("eval/report/page.html.j2", report=report))
        markdown_path = out.with_suffix(".md")
        store.write_text(markdown_path, "\n".join(markdown.lines(report)) + "\n")
        notes = tuple(report.maps.remarks) if report.maps else ()
        return stage.finish(outputs=[out, markdown_path], counts={"runs": len(runs)}, notes=notes)


def _ledgers(work: Path) -> list[tuple[Path, str]]:
    """Return every stage's ledger in a work folder, with the split it belongs to."""
    paths = [(path, "all splits") for path in sorted(work.glob("*.ledger.json"))]
    for name in splits(work) if work.is_dir() else []:
        for pattern in ("teachers/*/ledger.json", "index/*ledger.json", "audit/*ledger.json"):
            paths += [(path, name) for path in sorted((work / name).glob(pattern))]
    return paths


def _stages(runs: Sequence[Run], stage_ledgers: Sequence[tuple[Path, str]]) -> pages.Table:
    """Return time and memory of every stage."""
    paths = [*stage_ledgers]
    for run in runs:
        paths += [(run.folder / "ledger.json", run.name), (run.folder / "eval" / "ledger.json", run.name)]
    rows = []
    for path, where in paths:
        record = ledger.read(path)
        if record is None:
            continue
        teacher = record.parameters.get("teacher", "")
        on = f"{where}, {without_folders(teacher)}" if isinstance(teacher, str) and teacher else where
        finished = record.finished[:16].replace("T", " ")
        memory = f"{record.peak_memory_bytes / 2**20:,.0f} MiB"
        rows.append([record.stage, on, f"{record.seconds:,.1f}", memory, _pace(record), finished])
    return pages.Table(("stage", "on", "seconds", "peak memory", "pace", "finished (UTC)"), rows, words=(1,))


def _pace(record: ledger.Ledger) -> str:
    """Return what a stage got through in a second, its start included."""
    for name in ("steps_done_now", "images_kept", "rows", "images", "pairs"):
        number = record.counts.get(name)
        if number and record.seconds:
            pace = number / record.seconds
            return f"{pace:,.0f} {name.split('_')[0]}/s" if pace >= 10 else f"{pace:.2g} {name.split('_')[0]}/s"
    return ""
