"""The results: every metric of every run in its place, and differences only where they are known."""

from cusa.eval.report import results
from cusa.eval.report.compare import Difference
from cusa.manifests import pages
from tests.eval.report.made_runs import made_run
from tests.eval.report.test_stage import Tags


def test_gather__a_run_without_a_task_has_empty_cells() -> None:
    first = made_run("first", {"cross-modal": {"rsum": 300.0, "image-to-text/r@1": 51.25}})
    second = made_run("second", {"cross-modal": {"rsum": 310.5}, "text-to-text": {"r@1": float("nan")}})
    gathered = results.gather([first, second], [{"cross-modal/rsum": Difference(10.5, 2, 19)}])
    assert gathered.header == ["metric", "first", "second", "second minus first"]
    assert [[row.values for row in task.rows] for task in gathered.tasks] == [
        [["300.00", "310.50"], ["51.25", ""]],
        [["", ""]],
    ]
    page = Tags(pages.render("eval/report/results.html.j2", report={"results": gathered}))
    assert "+10.50 (+2.00 to +19.00)" in page.text
    assert [attributes["class"] for tag, attributes in page.tags if tag == "span" and attributes["class"] == "up"]
