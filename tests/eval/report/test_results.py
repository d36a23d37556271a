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
    assert gathered.header == ["metric", "first", "second", "chance", "second minus first"]
    assert [[row.values for row in task.rows] for task in gathered.tasks] == [
        [["300.00", "310.50"], ["51.25", ""]],
        [["", ""]],
    ]
    page = Tags(pages.render("eval/report/results.html.j2", report={"results": gathered}))
    assert "+10.50 (+2.00 to +19.00)" in page.text
    assert [attributes["class"] for tag, attributes in page.tags if tag == "span" and attributes["class"] == "up"]


def test_gather__a_single_run_has_its_intervals_and_all_have_units_and_chance() -> None:
    run = made_run("one", {"cross-modal": {"rsum": 300.0, "text-to-image/r@1": 50.0, "text-to-image/median_rank": 2.0}})
    summary = run.result["tasks"]["cross-modal"]
    summary |= {"intervals": {"text-to-image/r@1": [45.25, 55.5]}, "chance": {"text-to-image/r@1": 0.1}}
    gathered = results.gather([run], [])
    assert gathered.header == ["metric", "one", "95 % interval", "chance"]
    rows = [(row.metric.words, row.unit, row.interval, row.chance) for row in gathered.tasks[0].rows]
    assert rows == [
        ("RSUM", "points", "", ""),
        ("text to image: R@1", "%", "45.25 to 55.50", "0.10"),
        ("text to image: median rank", "", "", ""),
    ]
    page = Tags(pages.render("eval/report/results.html.j2", report={"results": gathered}))
    assert "text to image: R@1 % 50.00 45.25 to 55.50 0.10" in page.text
    links = [attributes["href"] for tag, attributes in page.tags if attributes.get("class") == "term"]
    assert links == ["#metric-rsum", "#metric-r-k", "#metric-median-rank"]


def test_gather__without_a_number_it_says_why() -> None:
    run = made_run("one", {})
    run.result["tasks"].update({"eccv-caption": {"unavailable": "/home/anna/w/truth.parquet does not exist"}})
    gathered = results.gather([run], [])
    assert gathered.unavailable == [("ECCV Caption", "truth.parquet does not exist")]
    page = Tags(pages.render("eval/report/results.html.j2", report={"results": gathered}))
    assert "There are no numbers" in page.text
    assert "ECCV Caption: truth.parquet does not exist" in page.text
    assert "table" not in [tag for tag, _ in page.tags]
