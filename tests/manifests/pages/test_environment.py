"""Templates: every value is escaped, a missing one is an error, and no page is assembled elsewhere."""

import re
from pathlib import Path

import jinja2
import pytest

import cusa
from cusa.manifests.pages import environment, render

PACKAGE = Path(cusa.__path__[0])
TEMPLATES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.html.j2"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates__say_nothing_to_be_safe_that_was_not_escaped(template: str) -> None:
    source = (PACKAGE / template).read_text(encoding="utf-8")
    environment().get_template(template)
    for hole in ("|safe", "| safe", "autoescape", "Markup"):
        assert hole not in source


def test_no_page_is_assembled_in_python() -> None:
    """Modules that show something give values; tags stand in templates alone."""
    using = [path for path in PACKAGE.rglob("*.py") if "cusa.manifests.pages" in path.read_text("utf-8")]
    using += [path for path in PACKAGE.rglob("*.py") if "manifests import pages" in path.read_text("utf-8")]
    using += [PACKAGE / "eval/report/charts.py"]
    assert len(using) > 8
    for path in using:
        source = path.read_text("utf-8")
        assert not re.search(r"markupsafe|html\.escape|</|<(div|p|td|span|svg|img|b|i)[ >]", source), path


def test_render__escapes_every_value_also_in_attributes_and_through_macros() -> None:
    hostile = "\"><script>alert('1')</script> & <b"
    values = {
        "title": hostile,
        "asked": hostile,
        "cards": [
            {
                "rank": 1,
                "problem": "",
                "picture": hostile,
                "hit": {"caption": hostile, "image_key": hostile, "split": hostile, "similarity": 0.5},
            }
        ],
    }
    page = render("pipeline/index/search.html.j2", **values)
    assert "<script" not in page
    assert page.count("&#34;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &lt;b") == 7
    tags = re.findall(r"<(\w+)", page.partition("<main>")[2])
    assert tags == ["h1", "div", "article", "img", "p", "bdi", "div", "span", "span", "code", "span"]


def test_render__a_byte_that_is_no_text_is_a_question_mark() -> None:
    page = render("pipeline/index/search.html.j2", title="half \ud83d", asked="half \ud83d", cards=[])
    assert "<h1>half ?</h1>" in page


def test_render__marks_of_direction_in_a_caption_turn_nothing_else_round() -> None:
    quoted = environment().from_string('{% import "manifests/pages/parts.html.j2" as parts %}{{ parts.quoted(words) }}')
    assert quoted.render(words="\u202eeno <") == "“<bdi>\u202eeno &lt;</bdi>”"


def test_render__a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'cards' is undefined"):
        render("pipeline/index/search.html.j2", title="a", asked="b")


def test_thousands__groups_digits_without_decimals() -> None:
    template = environment().from_string("{{ a|thousands }} {{ b|thousands }} {{ c|thousands }}")
    assert template.render(a=1234567, b=999, c=1234.6) == "1,234,567 999 1,235"
