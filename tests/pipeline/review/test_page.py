"""The page in a real Chromium, at a desktop's and at a phone's width."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.manifests import schemas
from cusa.manifests.judgements import verdicts
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.review.room import Room
from tests.browser import WAIT, needs_browser
from tests.pipeline.audited import make_taught
from tests.pipeline.review.served import in_thread, make_audited
from tests.pipeline.review.test_server import HOSTILE, make_hostile

pytestmark = needs_browser

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


class Tab:
    """One tab, and what went wrong in it."""

    def __init__(self, browser: Any, port: int, *, size: str = "desktop", name: str = "ada") -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.page.goto(f"http://127.0.0.1:{port}/")
        if name:
            self.page.fill("#name", name)
            self.page.press("#name", "Enter")
            self.page.wait_for_selector("#candidate:visible, #done:visible")

    def shown(self) -> str:
        return str(self.page.text_content("#keys"))

    def press(self, key: str) -> None:
        """Press a key, and wait for the next candidate."""
        before = self.shown()
        self.page.keyboard.press(key)
        self.until(lambda: self.shown() != before or self.page.is_visible("#done"))

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; the page's own policy lets nobody wait inside it."""
        end = time.monotonic() + WAIT / 1000
        while not holds():
            assert time.monotonic() < end, f"waited in vain; {self.wrong}"
            self.page.wait_for_timeout(20)

    def has_picture(self, name: str) -> bool:
        return bool(self.page.evaluate(f"document.getElementById('{name}').naturalWidth > 0"))

    def fits(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("size", SIZES)
def test_page__judges_by_keyboard_and_takes_back(browser: Any, tmp_path: Path, size: str) -> None:
    room = Room(Split(make_audited(tmp_path), "train"))
    with in_thread(room) as port:
        tab = Tab(browser, port, size=size)
        first = tab.shown()
        tab.until(lambda: tab.has_picture("image") and tab.has_picture("owner"))
        assert tab.fits()
        for key in ("m", "r", "n", "d", "s"):
            tab.press(key)
        words = [row.verdict for row in verdicts.read(room.split.folder / "audit")]
        assert words == ["match", "related", "no match", "duplicate", "skip"]
        for _ in range(5):
            tab.press("u")
        assert tab.shown() == first
        assert tab.page.is_disabled("#undo")
        tab.page.click("nav button.match")
        tab.until(lambda: str(tab.page.text_content("#count")).startswith("1 of"))
        # All that a person needs is on the screen: the buttons are never covered or cut off.
        for box in (each.bounding_box() for each in tab.page.query_selector_all("nav button")):
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= SIZES[size][0]
            assert box["y"] + box["height"] <= SIZES[size][1]
        tab.page.reload()
        tab.page.wait_for_selector("#candidate:visible")
        assert tab.page.text_content("#who") == "ada"
        assert tab.shown() != first
        assert tab.wrong == []
        tab.context.close()
    rows = verdicts.read(room.split.folder / "audit")
    assert len(rows) == 11
    assert len({row.id for row in rows}) == 11
    room.close()


def test_page__filters_and_ends(browser: Any, tmp_path: Path) -> None:
    room = Room(Split(make_audited(tmp_path), "train"))
    with in_thread(room) as port:
        tab = Tab(browser, port)
        tab.page.keyboard.press("/")
        tab.page.keyboard.type("scor > 1")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("#trouble:visible")
        assert "score" in str(tab.page.text_content("#trouble"))
        assert len(tab.wrong) == 1  # the browser itself notes the answer 400
        tab.page.fill("#where", "score > 7")
        tab.page.press("#where", "Enter")
        tab.page.wait_for_selector("#done:visible")
        assert tab.page.text_content("#done-title") == "No candidates"
        assert tab.page.is_hidden("#trouble")
        two = " or ".join(
            f"(image_key = '{one.image_key}' and caption_key = '{one.caption_key}')"
            for one in room.candidates.queue("").candidates[5:7]
        )
        tab.page.fill("#where", two)
        tab.page.press("#where", "Enter")
        tab.page.wait_for_selector("#candidate:visible")
        tab.press("n")
        tab.press("n")
        assert tab.page.text_content("#done-title") == "All judged"
        tab.context.close()
    room.close()


@pytest.mark.parametrize("size", SIZES)
def test_page__hostile_captions_are_words(browser: Any, tmp_path: Path, size: str) -> None:
    room = Room(Split(make_hostile(tmp_path), "train"))
    seen = set()
    with in_thread(room) as port:
        tab = Tab(browser, port, size=size)
        for _ in range(12):
            seen.add(tab.page.text_content("#sentence"))
            assert tab.fits()
            assert tab.page.query_selector_all("#room script, #sentence *, #own img, #siblings img") == []
            tab.press("s")
        assert tab.page.title() == "Review: probably missing matches"
        assert tab.wrong == []
        tab.context.close()
    assert seen <= set(HOSTILE)
    assert len(seen) > 2
    room.close()


def test_page__another_site_learns_and_changes_nothing(browser: Any, tmp_path: Path) -> None:
    room = Room(Split(make_audited(tmp_path), "train"))
    pair = room.candidates.queue("").candidates[0]
    attack = """async ([port, image, caption]) => {
        const body = JSON.stringify({id: "verdict-evil", image_key: image, caption_key: caption, verdict: "match",
            reviewer: "eve", tab: "t"});
        const tries = [
            () => fetch(`http://127.0.0.1:${port}/verdicts`, {method: "POST", body,
                headers: {"Content-Type": "application/json"}}),
            () => fetch(`http://127.0.0.1:${port}/verdicts`, {method: "POST", body, mode: "no-cors"}),
            () => fetch(`http://127.0.0.1:${port}/next?reviewer=eve&tab=t&where=`),
            () => new Promise((done, failed) => { const image_ = new Image(); image_.onload = () => done({ok: true});
                image_.onerror = failed; image_.src = `http://127.0.0.1:${port}/image?key=${image}`; }),
        ];
        const found = [];
        for (const each of tries) { try { found.push((await each()).ok); } catch { found.push("refused"); } }
        return found;
    }"""
    with in_thread(room) as port, in_thread(room) as other:
        # `localhost` at another port is another origin, though the same machine.
        context = browser.new_context(bypass_csp=True)
        page = context.new_page()
        page.goto(f"http://localhost:{other}/")
        answers = page.evaluate(attack, [port, pair.image_key, pair.caption_key])
        assert answers == ["refused", False, "refused", "refused"]
        context.close()
    assert verdicts.read(room.split.folder / "audit") == []
    room.close()


def test_page__a_verdict_outlives_the_server(browser: Any, tmp_path: Path) -> None:
    split = Split(make_audited(tmp_path), "train")
    room = Room(split)
    with in_thread(room) as port:
        tab = Tab(browser, port)
        first = tab.shown()
        tab.context.set_offline(True)  # as if the server were gone
        tab.page.keyboard.press("m")
        tab.page.wait_for_selector("#trouble:visible")
        assert "kept in this tab" in str(tab.page.text_content("#trouble"))
        assert tab.shown() == first  # nothing else is asked before it is kept
        tab.page.keyboard.press("n")  # a second key press is no second verdict
        tab.context.set_offline(False)
        tab.until(lambda: tab.shown() != first)
        tab.page.wait_for_selector("#trouble", state="hidden")
        tab.context.close()
    assert [row.verdict for row in verdicts.read(split.folder / "audit")] == ["match"]
    room.close()


@pytest.mark.parametrize("size", SIZES)
def test_gallery__filters_hide_what_they_say(browser: Any, tmp_path: Path, size: str) -> None:
    work = make_taught(tmp_path)
    split = Split(work, "train")
    pairs = [(image, caption) for image in split.image_keys[:6] for caption in split.caption_keys]
    table = pa.table([list(column) for column in zip(*pairs, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table.replace_schema_metadata({"complete": "true"}))
    audit.run(AuditConfig(neighbours=4, gallery=60), split=split)
    path = work / "train/audit/gallery.html"
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())

    def shown() -> list[str]:
        return [str(card.text_content()) for card in page.query_selector_all("article") if card.is_visible()]

    every = shown()
    assert len(every) == page.locator("article").count() > 10
    page.check("#known-true")
    true = shown()
    page.check("#known-false")
    false = shown()
    assert 0 < len(true) < len(every)
    assert sorted(true + false) == sorted(every)
    page.check("#known-all")
    page.check("#score-band-0")
    least = float(str(page.locator("label:has(#score-band-0)").text_content()).removeprefix("from "))
    scores = [float(card.partition("score ")[2][:5]) for card in every]
    assert sorted(shown()) == sorted(card for card, score in zip(every, scores, strict=True) if score >= least)
    assert 0 < len(shown()) < len(every)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_page__two_people_and_two_tabs(browser: Any, tmp_path: Path) -> None:
    room = Room(Split(make_audited(tmp_path), "train"), votes=2)
    with in_thread(room) as port:
        ada, again, bob = (Tab(browser, port, name=name) for name in ("ada", "ada", "bob"))
        assert ada.shown() == bob.shown(), "two are asked about each candidate"
        assert again.shown() != ada.shown(), "a second tab of the same person shows another"
        first = ada.shown()
        ada.press("m")
        bob.press("m")
        assert ada.shown() not in (first, again.shown())
        assert "agree on 1 of 1 shared" in str(bob.page.text_content("#agreement"))
        assert str(bob.page.text_content("#count")).startswith("1 of ")
        for tab in (ada, again, bob):
            assert tab.wrong == []
            tab.context.close()
    rows = verdicts.read(room.split.folder / "audit")
    assert [(row.reviewer, row.verdict) for row in rows] == [("ada", "match"), ("bob", "match")]
    assert rows[0].caption_key == rows[1].caption_key
    room.close()
