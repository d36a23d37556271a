"""The report's section of results: every metric of every run, and the differences to the first run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cusa.eval.report.compare import Difference
from cusa.eval.report.runs import Run, cell, metrics_of, value_of
from cusa.eval.tasks import definitions, registry
from cusa.eval.tasks import metrics as table
from cusa.manifests.pages import Term
from cusa.manifests.storage.paths import without_folders


@dataclass(frozen=True)
class MetricRow:
    """One metric of one task."""

    metric: Term
    unit: str
    values: Sequence[str]
    """A text a run; empty where it has none."""
    interval: str
    """Of 95 %, of a single run; empty where there are several or it has none."""
    chance: str
    """What a random ranking gets; empty where nobody knows."""
    differences: Sequence[Difference | None]
    """Of each run but the first to the first."""


@dataclass(frozen=True)
class TaskResults:
    """One task's numbers.

    Attributes:
        title: the task's, for people.
        protocol: what counts as right, in words.
        spaces: the embedding spaces it was computed in.
        queries: how many.
        rows: its metrics.
    """

    title: str
    protocol: str
    spaces: str
    queries: int
    rows: Sequence[MetricRow]


@dataclass(frozen=True)
class Results:
    """The section's values.

    Attributes:
        runs: names; the first is the baseline.
        tasks: in the order of the evaluation.
        remarks: run and sentence.
        unavailable: title and reason of each task that no run has numbers in.
    """

    runs: Sequence[str]
    tasks: Sequence[TaskResults]
    remarks: Sequence[tuple[str, str]]
    unavailable: Sequence[tuple[str, str]]

    @property
    def header(self) -> list[str]:
        """Names of the table's columns."""
        first, *others = self.runs
        between = ["chance"] if others else ["95 % interval", "chance"]
        return ["metric", first, *others, *between, *(f"{name} minus {first}" for name in others)]


def gather(runs: Sequence[Run], differences: Sequence[Mapping[str, Difference]]) -> Results:
    """Return the section's values.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it, by path.
    """
    tasks = []
    for task, metrics in metrics_of(runs):
        results = [run.result["tasks"][task] for run in runs if task in run.result["tasks"]]
        spaces = dict.fromkeys(str(run.result["tasks"].get(task, {}).get("space", "?")) for run in runs)
        rows = [
            MetricRow(
                definitions.term(name, table.title(name)),
                _unit(name),
                [cell(value_of(run, task, name)) for run in runs],
                _interval(results[0], name) if len(runs) == 1 else "",
                _chance(results, name),
                [difference.get(path) for difference in differences],
            )
            for name, path in metrics
        ]
        names = [name for name, _ in metrics]
        of_runs = [run.result["tasks"].get(task, {}) for run in runs]
        protocol = without_folders(results[0]["protocol"])
        queries = results[0]["queries"]
        tasks.append(TaskResults(registry.title(task), protocol, " / ".join(spaces), queries, rows))
        tasks += _by_group(task, names, [summary.get("by_source", {}) for summary in of_runs], "of the source")
        tasks += _by_group(task, names, [summary.get("by_language", {}) for summary in of_runs], "in the language")
    remarks = [(run.name, without_folders(sentence)) for run in runs for sentence in run.result.get("remarks", ())]
    lacking = {
        registry.title(name): without_folders(summary["unavailable"])
        for run in runs
        for name, summary in run.result["tasks"].items()
        if "unavailable" in summary
    }
    shown = {task.title for task in tasks}
    unavailable = [(title, why) for title, why in lacking.items() if title not in shown]
    return Results([run.name for run in runs], tasks, remarks, unavailable)


def _by_group(task: str, names: Sequence[str], of_runs: Sequence[Mapping[str, Any]], words: str) -> list[TaskResults]:
    """Return a task's numbers by groups of captions, by what made them or by their language.

    Args:
        task: its name.
        names: of its metrics, in order.
        of_runs: of each run: group -> its summary; empty where it has none.
        words: what stands before a group's name.
    """
    tasks = []
    for source in dict.fromkeys(source for of_run in of_runs for source in of_run):
        several = len(of_runs) > 1
        first = next(of_run[source] for of_run in of_runs if source in of_run)
        rows = [
            MetricRow(
                definitions.term(name, table.title(name)),
                _unit(name),
                [cell(of_run.get(source, {}).get("metrics", {}).get(name)) for of_run in of_runs],
                "" if several else _interval(first, name),
                "",
                [None] * (len(of_runs) - 1),
            )
            for name in names
            if name in first["metrics"]
        ]
        title = f"{registry.title(task)}: {first['captions']:,} captions {words} \u201c{source}\u201d"
        tasks.append(TaskResults(title, first["protocol"], first["space"], first["queries"], rows))
    return tasks


def _unit(name: str) -> str:
    """Return a metric's unit; empty where its name says it."""
    one = table.named(name)
    return "" if one.metric.unit in one.title.split() else one.metric.unit


def _interval(result: Mapping[str, Any], name: str) -> str:
    span = result.get("intervals", {}).get(name)
    return "{:.2f} to {:.2f}".format(*span) if span else ""


def _chance(results: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return what a random ranking gets: the same for all runs, which were asked the same."""
    levels = (table.chance_in(result, name) for result in results)
    return cell(next((level for level in levels if level is not None), None))
