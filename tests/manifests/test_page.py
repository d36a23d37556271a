"""The look of every page, in a real browser: nothing is cut off on a phone or on paper, whatever a run is called."""

from pathlib import Path
from typing import Any

import pytest

from cusa.manifests import page
from tests.browser import needs_browser

pytestmark = needs_browser

LONG = "seed=2_loss.reduction=standard_method=baseline_" * 3


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    body = [
        f"<h1>{LONG}</h1><p><b>{LONG}</b> ran.</p>",
        f'<div class="cards">{page.card(LONG, "12.5", LONG)}{page.card("RSUM", "300.1")}</div>',
        page.table(["metric", LONG, LONG, "difference"], [["RSUM", "1", "2", "+1 (-1 to +3)"]] * 30, words=[3]),
        f"<details><summary>{LONG}</summary><p id='folded'>{LONG}</p></details>",
        f'<div class="charts"><figure class="chart"><figcaption>{LONG}</figcaption></figure></div>',
    ]
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page.page(LONG, body), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, file: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


def test_nothing_is_cut_off_on_paper(browser: Any, file: Path) -> None:
    tab = browser.new_page(viewport={"width": 718, "height": 1000})  # A4 without its margins
    tab.goto(file.as_uri())
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718
    cut = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth + 1)"
    assert not tab.evaluate(cut)
    assert tab.evaluate("document.getElementById('folded').getBoundingClientRect().height") > 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.close()
