"""The overview: figures of the last run against the first, settings side by side, the paper's loss named."""

from typing import Any

import pytest

from cusa.eval.report import overview
from cusa.eval.report.compare import Difference
from cusa.manifests import pages
from tests.eval.report.made_runs import made_run
from tests.eval.report.test_stage import Tags


def _recipe(alpha: float, beta: float, temperature: float, reduction: str = "standard") -> dict[str, Any]:
    start = {"initial": 0.45}
    loss = {"alpha": alpha, "beta": beta, "reduction": reduction, "teacher_image_temperature": {"initial": temperature}}
    loss |= {"csa_image_temperature": start, "usa_image_temperature": start}
    return {"description": "Says <b>much</b>.", "loss": loss, "train": {"batch": 128, "seed": 3}}


def _words(gathered: overview.Overview) -> str:
    return Tags(pages.render("eval/report/overview.html.j2", report={"overview": gathered})).text


@pytest.mark.parametrize(("low", "high", "trend"), [(1.0, 9.0, "up"), (-9.0, -1.0, "down"), (-1.0, 1.0, "")])
def test_gather__the_difference_is_marked_only_where_its_interval_excludes_zero(
    low: float, high: float, trend: str
) -> None:
    runs = [made_run(name, {"cross-modal": {"rsum": value}}) for name, value in (("one", 300.0), ("two", 305.04))]
    gathered = overview.gather(runs, [{"cross-modal/rsum": Difference(5.04, low, high)}])
    assert [headline.label for headline in gathered.headlines] == ["RSUM"]
    words = _words(gathered)
    assert "305.0 +5.04 against one" in words
    page = Tags(pages.render("eval/report/overview.html.j2", report={"overview": gathered}))
    assert [attributes["class"] for tag, attributes in page.tags if tag == "span"] == [trend]


def test_gather__the_paper_s_setting_is_named_and_others_are_compared_with_it() -> None:
    tasks = {"cross-modal": {"rsum": 1.0}}
    literal = made_run("paper", tasks, recipe=_recipe(0.1, 0.5, 1.0))
    assert "This is the paper's setting for CLIP" in _words(overview.gather([literal], []))
    other = made_run("ours", tasks, recipe=_recipe(0.2, 0.5, 0.05))
    words = _words(overview.gather([made_run("plain", tasks, recipe=_recipe(0, 0, 1.0)), other], [{}]))
    assert "ours uses 0.2 and 0.5 with soft labels at temperature 0.05" in words
    assert "Says <b>much</b>." in words
    assert "paper's setting" not in _words(overview.gather([made_run("no-recipe", tasks)], []))


def test_settings__the_release_s_reduction_multiplies_the_weights_by_the_batch() -> None:
    run = made_run("a", {"cross-modal": {"rsum": 1.0}}, recipe=_recipe(0.1, 0.5, 1.0, "release"))
    assert overview.gather([run], []).settings["a"]["effective weights"] == "1 : 12.8 : 64 at batch 128"
