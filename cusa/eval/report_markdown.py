"""The report's tables as Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from cusa.eval import compare
from cusa.eval.runs import METRIC_WORDS, Run, cell, metric_words, metrics_of, settings, title, value_of


def lines(
    runs: Sequence[Run], differences: Sequence[Mapping[str, compare.Difference]], stages: list[list[str]]
) -> Iterable[str]:
    """Give the page line by line.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it.
        stages: rows of stage, place, seconds, peak memory, end.
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
    yield "| stage | on | seconds | peak memory |"
    yield "| --- | --- | --- | --- |"
    for stage, on, seconds, memory, _ in stages:
        yield f"| {stage} | {on} | {seconds} | {memory} |"
