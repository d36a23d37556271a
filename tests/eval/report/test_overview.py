"""The overview: figures of the last run against the first, settings side by side, the paper's loss named."""

from dataclasses import replace
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
    return _page(gathered).text


def _page(gathered: overview.Overview) -> Tags:
    parts = (f"eval/report/{name}.html.j2" for name in ("headlines", "overview"))
    return Tags("".join(pages.render(part, report={"overview": gathered}) for part in parts))


@pytest.mark.parametrize(("low", "high", "trend"), [(1.0, 9.0, "up"), (-9.0, -1.0, "down"), (-1.0, 1.0, "")])
def test_gather__the_difference_is_marked_only_where_its_interval_excludes_zero(
    low: float, high: float, trend: str
) -> None:
    runs = [made_run(name, {"cross-modal": {"rsum": value}}) for name, value in (("one", 300.0), ("two", 305.04))]
    gathered = overview.gather(runs, [{"cross-modal/rsum": Difference(5.04, low, high)}])
    assert [(headline.label.words, headline.unit) for headline in gathered.headlines] == [("RSUM", "points")]
    page = _page(gathered)
    assert "305.0points +5.0 against one" in page.text
    assert [attributes["class"] for tag, attributes in page.tags if tag == "span"] == ["unit-of", trend]


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
    settings = overview.gather([run], []).settings["a"]
    assert (settings["effective weights"], settings["batch"]) == ("1 : 12.8 : 64", "128 pairs")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"alpha": 0.0, "beta": 0.0}, {"loss": "InfoNCE (standard) alone"}),
        ({"alpha": 0.0, "infonce_weight": 2.0}, {"loss": "2 InfoNCE (standard) + 0.5 USA"}),
        ({"alpha": 0.0, "beta": 0.0, "contrast": "sigmoid"}, {"loss": "sigmoid loss alone"}),
        (
            {"false_negatives": "mask", "mask_image": "positive", "mask_text": 0.9, "mask_margin": 0.05},
            {"false negatives": "near pairs leave the denominators (image positive, text 0.9, margin 0.05)"},
        ),
        ({"false_negatives": "positive"}, {"false negatives": "by people's verdicts"}),
        ({"label_smoothing": 0.1}, {"label smoothing": "0.1"}),
        ({"pair_weights": "audit"}, {"weights of the pairs": "by the audit"}),
    ],
)
def test_settings__say_what_was_set_and_nothing_that_weighs_nothing(
    loss: dict[str, Any], expected: dict[str, str]
) -> None:
    recipe = _recipe(0.1, 0.5, 1.0)
    recipe["loss"] |= loss
    run = made_run("a", {"cross-modal": {"rsum": 1.0}}, recipe=recipe)
    gathered = overview.gather([run], [])
    settings = gathered.settings["a"]
    assert {name: settings[name] for name in expected} == expected
    assert "0 CSA" not in settings["loss"]
    treated = {"contrast", "false_negatives", "label_smoothing", "pair_weights"} & loss.keys()
    assert not (treated and gathered.loss_setting)


def test_descriptions__say_what_was_changed_of_the_recipe() -> None:
    run = made_run("a", {"cross-modal": {"rsum": 1.0}}, recipe={"name": "mine", **_recipe(0.2, 0.5, 1.0)})
    changes = [{"key": "loss.alpha", "recipe": "0.1", "set": "0.2"}]
    words = _words(overview.gather([replace(run, changes=changes)], []))
    assert "a. Recipe mine. Says <b>much</b>." in words
    assert "Changed of that recipe for this run: 1 setting." in words
    assert "loss.alpha = 0.2 (the recipe says 0.1)" in words
    assert "Changed of that recipe" not in _words(overview.gather([run], []))
