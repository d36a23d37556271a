"""The report's section of results: every metric of every run, and the differences to the first run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cusa.eval.report.compare import Difference
from cusa.eval.report.runs import Run, cell, metrics_of, value_of
from cusa.eval.tasks import registry
from cusa.eval.tasks.metrics import title as metric_title


@dataclass(frozen=True)
class MetricRow:
    """One metric of one task."""

    metric: str
    values: Sequence[str]
    """A text a run; empty where it has none."""
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
    """

    runs: Sequence[str]
    tasks: Sequence[TaskResults]
    remarks: Sequence[tuple[str, str]]

    @property
    def header(self) -> list[str]:
        """Names of the table's columns."""
        first, *others = self.runs
        return ["metric", first, *others, *(f"{name} minus {first}" for name in others)]


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
                metric_title(name),
                [cell(value_of(run, task, name)) for run in runs],
                [difference.get(path) for difference in differences],
            )
            for name, path in metrics
        ]
        title = registry.title(task)
        tasks.append(TaskResults(title, results[0]["protocol"], " / ".join(spaces), results[0]["queries"], rows))
    remarks = [(run.name, sentence) for run in runs for sentence in run.result.get("remarks", ())]
    return Results([run.name for run in runs], tasks, remarks)
