"""The report's tables as Markdown."""

import html
from collections.abc import Iterable, Mapping, Sequence

from cusa.eval.report import card as report_card
from cusa.eval.report import compare
from cusa.eval.report import paper_tables as report_paper
from cusa.eval.report import sweep as report_sweep
from cusa.eval.report.runs import METRIC_WORDS, Run, cell, metric_words, metrics_of, settings, title, value_of


def lines(
    runs: Sequence[Run],
    differences: Sequence[Mapping[str, compare.Difference]],
    stages: list[list[str]],
    sweep: Sequence[report_sweep.Setting] = (),
) -> Iterable[str]:
    """Give the page line by line.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it.
        stages: rows of stage, place, seconds, peak memory, pace, end.
        sweep: the settings of a sweep, where one is told of.
    """
    result = runs[0].result
    yield f"# {title(runs)}"
    yield ""
    yield f"{result['images']:,} images, {result['captions']:,} captions. Ties: {result['ties']}."
    for run in runs:
        yield ""
        yield f"**{run.name}**: " + "; ".join(f"{name}: {words}" for name, words in settings(run).items()) + "."
    yield ""
    header = ["metric", *(run.name for run in runs)]
    header += [f"{run.name} - {runs[0].name} (95 % interval)" for run in runs[1:]]
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for task, name, path in metrics_of(runs):
        if not name:
            yield f"| **{METRIC_WORDS.get(task, task)}** |" + " |" * (len(header) - 1)
            continue
        cells = [cell(value_of(run, task, name)) for run in runs]
        for difference in differences:
            found = difference.get(path)
            cells.append("" if found is None else f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})")
        yield f"| {metric_words(name)} | " + " | ".join(cells) + " |"
    yield ""
    for run in runs:
        yield from (f"- {run.name}: {words}" for words in run.result.get("remarks", ()))
    card = report_card.table(runs[-1])
    if len(card[1]) > 1:
        yield from _table(f"The same answers of {runs[-1].name}, judged by every truth", *card)
    if sweep:
        yield from _table("The sweep; * stands on the frontier with RSUM", *report_sweep.table(sweep))
    for heading, has, columns, rows in report_paper.tables(runs):
        if has:
            yield from _table(f"{heading}, beside the published figures", columns, rows)
    yield from _table(
        "Time and memory",
        ["stage", "on", "seconds", "peak memory", "pace"],
        [[html.unescape(one) for one in row[:5]] for row in stages],
    )


def _table(heading: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield ""
    yield f"## {heading}"
    yield ""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(one.replace("|", "\\|") for one in row) + " |"
