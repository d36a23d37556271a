"""The look of every page, in a real browser: nothing is cut off on a phone or on paper, whatever a run is called."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cusa.manifests.pages import Figure, Table, environment, thumbnail
from tests.browser import needs_browser


def _in_a_browser(test: Any) -> Any:
    for mark in needs_browser:
        test = mark(test)
    return test


LONG = "seed=2_loss.reduction=standard_method=baseline_" * 3
PAGE = """
{% extends "manifests/pages/base.html.j2" %}
{% import "manifests/pages/parts.html.j2" as parts %}
{% block body %}
<h1>{{ title }}</h1><p><b>{{ title }}</b> ran.</p>
{{ parts.figures(figures) }}
{{ parts.table(table) }}
<details><summary>{{ title }}</summary><p id="folded">{{ title }}</p></details>
<div class="charts"><figure class="chart"><figcaption>{{ title }}</figcaption></figure></div>
{% endblock %}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    figures = [Figure(LONG, "12.5", LONG), Figure("RSUM", "300.1")]
    table = Table(["metric", LONG, LONG, "difference"], [["RSUM", "1", "2", "+1 (-1 to +3)"]] * 30, words=[3])
    path = tmp_path_factory.mktemp("page") / "page.html"
    html = environment().from_string(PAGE).render(title=LONG, figures=figures, table=table)
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("size", "side", "small"), [((400, 200), 160, (160, 80)), ((30, 600), 100, (5, 100)), ((9, 7), 160, (9, 7))]
)
def test_thumbnail__a_jpeg_of_the_longer_side_and_never_larger(size: Any, side: int, small: Any) -> None:
    image = Image.linear_gradient("L").convert("RGB").resize(size)
    before = image.tobytes()
    kind, _, data = thumbnail(image, side=side).partition(",")
    assert kind == "data:image/jpeg;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (shown.format, shown.size, shown.mode) == ("JPEG", small, "RGB")
    assert (image.size, image.tobytes()) == (size, before), "the caller's stays as it is"
    assert max(Image.open(io.BytesIO(base64.b64decode(thumbnail(image).partition(",")[2]))).size) == min(max(size), 160)


@_in_a_browser
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_base__nothing_is_wider_than_the_screen(browser: Any, file: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@_in_a_browser
def test_base__nothing_is_cut_off_on_paper(browser: Any, file: Path) -> None:
    tab = browser.new_page(viewport={"width": 718, "height": 1000})  # A4 without its margins
    tab.goto(file.as_uri())
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718
    cut = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth + 1)"
    assert not tab.evaluate(cut)
    assert tab.evaluate("document.getElementById('folded').getBoundingClientRect().height") > 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.close()
