"""What a report shows of runs: the order of their numbers."""

from typing import Any, cast

from cusa.eval.report.runs import Run, metrics_of, title
from tests.eval.report.made_runs import made_run


class _Run:
    def __init__(self, numbers: dict[str, float]) -> None:
        self.result: dict[str, Any] = {"tasks": {"cross-modal": {"metrics": numbers}}}


def test_metrics_of__a_metric_that_the_table_lacks_is_shown_by_its_name_at_the_end() -> None:
    """It ended in a bare StopIteration."""
    run = cast(Run, _Run({"ndcg": 1.0, "text-to-image/mrr@7": 2.0, "text-to-image/r@1": 3.0, "rsum": 4.0}))
    [(_, shown)] = metrics_of([run])
    names = [name for name, _ in shown]
    assert names[:2] == ["rsum", "text-to-image/r@1"]
    assert set(names[2:]) == {"ndcg", "text-to-image/mrr@7"}


def test_title__names_three_runs_and_counts_more() -> None:
    runs = [made_run(name, {}) for name in "abcd"]
    assert title(runs[:3]) == "a against b against c on d test"
    assert title(runs) == "a against 3 other runs on d test"
