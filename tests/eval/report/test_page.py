"""All sections together: hostile words are words everywhere, read by a parser and seen in a real browser."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.eval.config import EMBEDDINGS, EvalConfig
from cusa.eval.report import stage as report
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.browser import needs_browser
from tests.eval import evaluating
from tests.eval.report.test_stage import HOSTILE, Tags, _work
from tests.eval.seers import Seer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a run with a long and hostile name, its captions hostile, its embeddings kept."""
    folder = tmp_path_factory.mktemp("page")
    work = _work(folder, before=HOSTILE, images=14)
    split = Split(work, "test")
    pairs = [{"image_key": image, "caption_key": key} for image in split.image_keys for key in split.caption_keys]
    store.write_table(split.folder / "truth.parquet", pa.Table.from_pylist(pairs, schemas.TRUTH))
    run = folder / ("<script>alert(1)<b>" + "seed=2_" * 20)
    config = EvalConfig(bootstrap=0)
    evaluating.run(
        config, load=lambda: Seer(noise=0.6), student_digest="1", split=split, out=run / "eval", cache=run / EMBEDDINGS
    )
    return report.run([run], out=folder / "r.html", work=work).out


def test_page__hostile_words_are_words_in_every_section(path: Path) -> None:
    page = Tags(path.read_text())
    assert "Verdicts that differ" in page.text
    assert "Maps of the embeddings" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_page__contents_lead_to_every_section_and_every_link_to_its_place(path: Path) -> None:
    page = Tags(path.read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert links
    assert [link for link in links if link.removeprefix("#") not in ids] == []
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert {"settings", "results", "truths", "cases", "maps", "published", "definitions"} <= set(sections)
    contents = path.read_text().partition("<nav")[2].partition("</nav>")[0]
    assert re.findall('href="#([^"]+)"', contents) == sections
    assert len([tag for tag, _ in page.tags if tag == "h2"]) == len(sections)


def test_page__every_table_scrolls_in_its_own_frame(path: Path) -> None:
    tags = Tags(path.read_text()).tags
    tables = [at for at, (tag, _) in enumerate(tags) if tag == "table"]
    assert len(tables) >= 6
    for at in tables:
        assert [attributes.get("class") for _, attributes in tags[at - 2 : at]] == ["table", "scroll"]


def test_page__every_metric_has_its_definition_and_every_picture_is_there_at_once(path: Path) -> None:
    html = path.read_text()
    results = html.partition('<section id="results">')[2].partition("</section>")[0]
    rows = [row for row in results.split("<tr>")[2:] if "<td" in row]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r'^\s*<td><a class="term" href="#metric-[a-z-]+" title="[A-Z].+?">', row), row
    assert "loading=" not in html


def test_page__tells_nothing_of_the_machine_s_folders(path: Path) -> None:
    for file in (path, path.with_suffix(".md")):
        assert "/work/test" not in file.read_text()
        assert str(path.parent.parent) not in file.read_text()


@pytest.mark.parametrize("width", [pytest.param(width, marks=needs_browser) for width in (390, 1280)])
def test_page__in_a_browser_nothing_runs_nothing_is_cut_off_and_a_point_shows_its_picture(
    browser: Any, path: Path, width: int
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.scripts.length") == 0
    loaded = "(image.loading = 'eager', image.decode().then(() => image.naturalWidth))"
    widths = tab.evaluate(f"Promise.all([...document.images].map(image => {loaded}))")
    assert widths
    assert all(widths)
    point = tab.locator(".pt").first
    assert not point.locator(".tip").is_visible()
    point.focus()
    assert point.locator(".tip").is_visible()
    assert HOSTILE.strip() in point.locator(".tip").text_content()
    assert wrong == []
    tab.close()
