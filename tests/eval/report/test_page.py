"""All sections together: hostile words are words everywhere, read by a parser and seen in a real browser."""

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
