"""The report's tables as Markdown, from the same values as the page."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from cusa.eval.report.page import Report
from cusa.eval.report.results import Results
from cusa.manifests.pages import Table
from cusa.manifests.words import counted


def lines(report: Report) -> Iterable[str]:
    """Give the Markdown line by line.

    Args:
        report: what the page shows.
    """
    yield f"# {_plain(report.title)}"
    yield ""
    yield f"{counted(report.images, 'image')}, {counted(report.captions, 'caption')}. Ties: {_plain(report.ties)}."
    for run, settings in report.overview.settings.items():
        yield ""
        yield f"**{_plain(run)}**: " + "; ".join(f"{name}: {_plain(words)}" for name, words in settings.items()) + "."
        for one in report.overview.descriptions:
            if one.run == run and one.changes:
                changed = "; ".join(f"{change.key} = {change.set} (there {change.recipe})" for change in one.changes)
                yield f"Changed of the recipe {_plain(one.recipe)} for this run: {_plain(changed)}."
    yield ""
    yield from _results(report.results)
    yield ""
    for run, sentence in report.results.remarks:
        yield f"- {_plain(run)}: {_plain(sentence)}"
    if report.card is not None:
        yield from _table(f"The same answers of {_plain(report.card.run)}, judged by every truth", report.card.table)
    for probed in report.probes:
        heading = f"What {_plain(probed.teacher)} cannot tell apart, captions of {_plain(probed.split)}"
        yield from _table(heading, probed.table)
    if report.sweep is not None:
        yield from _table("The sweep; * stands on the frontier with RSUM", report.sweep.table)
    for table in report.paper.tables:
        if table.num_ours:
            yield from _table(f"{table.title}, beside the published figures", Table(table.header, table.rows))
    columns = slice(0, 5)  # not when it finished
    stages = Table(report.stages.header[columns], [row[columns] for row in report.stages.rows])
    yield from _table("Time and memory", stages)


def _results(results: Results) -> Iterable[str]:
    header = list(results.header)
    yield from _row(header)
    yield "|" + " --- |" * len(header)
    for task in results.tasks:
        yield f"| **{_plain(task.title)}** |" + " |" * (len(header) - 1)
        for row in task.rows:
            name = f"{row.metric.words} ({row.unit})" if row.unit else row.metric.words
            interval = [row.interval] if len(results.runs) == 1 else []
            differences = ("" if one is None else str(one) for one in row.differences)
            yield from _row([name, *row.values, *interval, row.chance, *differences])


def _table(heading: str, table: Table) -> Iterable[str]:
    yield ""
    yield f"## {heading}"
    yield ""
    yield from _row(table.header)
    yield "|" + " --- |" * len(table.header)
    for row in table.rows:
        yield from _row(row)


def _row(cells: Sequence[str]) -> Iterable[str]:
    yield "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(words: str) -> str:
    """Return words of the data so that Markdown shows them as they are, in one line: no tag, no link, no new cell."""
    words = words.encode("utf-8", "replace").decode("utf-8")
    one_line = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in words)
    return re.sub(r"([\\|<\[])", r"\\\1", one_line)
