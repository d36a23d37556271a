"""The curve of a loop of audit, verdicts and training: in the report where its file is, escaped."""

from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.eval.report import loop as report_loop
from cusa.manifests import pages
from cusa.manifests.storage import store
from tests.eval.report.test_stage import Tags
from tests.worlds import make_work


def _point(reviewers: str, judged: int, value: float) -> dict[str, Any]:
    more = {"share_found": 0.25, "wrong_matches": 3} if judged else {}
    return {
        "reviewers": reviewers, "judged": judged, **more,
        "rsum_true": value, "r_precision_true": value / 10, "rsum_own": value / 2,
    }  # fmt: skip


RESULT = {
    "images": 250,
    "captions": 1250,
    "false_negatives": 7000,
    "steps": 240,
    "seeds": 1,
    "points": [
        _point("nobody", 0, 100.0),
        _point("<b>errs</b>", 1000, 120.0),
        _point("<b>errs</b>", 4000, 150.5),
        _point("CUSA, nobody asked", 0, 140.0),
    ],
}


def test_gather__draws_each_reviewer_from_where_nobody_was_asked(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train", "test"))
    assert report_loop.gather(work) == []
    store.write_json(work / "train/audit" / report_loop.FILE, RESULT)
    html = pages.render("eval/report/loop.html.j2", report={"loops": report_loop.gather(work)})
    page = Tags(html)
    assert "<b>errs" not in html
    assert "<b>errs</b>" in page.text
    lines = [attributes["points"] for tag, attributes in page.tags if tag == "polyline"]
    assert [len(points.split()) for points in lines] == [3, 2, 3, 2]
    starts = {points.split()[0].split(",")[0] for points in lines}
    assert len(starts) == 1, "all begin where nobody has judged"
    assert "150.5" in page.text
    assert "25%" in page.text
    assert "7,000 false negatives" in page.text


def test_gather__a_foreign_file_is_named(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train",))
    store.write_json(work / "train/audit" / report_loop.FILE, {"points": [{}]})
    with pytest.raises(DataError, match=r"verdict_loop\.json"):
        report_loop.gather(work)
