"""Reviewing own pairs: asked the doubted first, a better caption chosen in one verdict, taken back in one undo."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import schemas
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.judgements.own_pairs import FOLDER, pairs_path
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.review import server
from cusa.pipeline.review.room import Room
from cusa.pipeline.sql.database import connect
from tests.browser import needs_browser
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import make_taught
from tests.pipeline.review.served import in_thread
from tests.pipeline.review.test_page import SIZES, Tab
from tests.pipeline.review.test_sample import write_sample
from tests.pipeline.review.test_server import run_session
from tests.worlds import make_work


def doubted(folder: Path) -> Split:
    """Return a split with a table of doubts: the later the caption, the less; two better ones for each."""
    split = Split(make_work(folder, images=12, splits=("train",)), "train")
    number = split.num_captions
    rows = [
        {
            "image_key": split.image_keys[split.caption_owner[row]],
            "caption_key": key,
            "p_wrong": 1 - (row + 1) / (number + 1),
            "reasons": ["cross_modal", "too-short"],
            "better_caption_keys": [split.caption_keys[(row + step) % number] for step in (10, 20)],
        }
        for row, key in enumerate(split.caption_keys)
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.PAIRS).replace_schema_metadata({"split": split.digest})
    store.write_table(pairs_path(split), table)
    return split


def _ask(room: Room) -> dict[str, Any]:
    return room.next(reviewer="ada", tab="one")


def _judge(room: Room, shown: dict[str, Any], word: str, number: int, **more: str) -> dict[str, Any]:
    pair = {name: shown[name] for name in ("image_key", "caption_key")}
    return room.judge(id=f"verdict-{number:04}", verdict=word, reviewer="ada", tab="one", **pair, **more)


def _choose(room: Room, shown: dict[str, Any], number: int, chooses: str) -> dict[str, Any]:
    pair = {name: shown[name] for name in ("image_key", "caption_key")}
    return room.choose(id=f"verdict-{number:04}", chooses=chooses, reviewer="ada", tab="one", **pair)


def test_next__the_worst_first_with_reasons_and_better_captions(tmp_path: Path) -> None:
    room = Room(doubted(tmp_path), own_pairs=True)
    shown = _ask(room)["candidate"]
    assert shown["owner_image_key"] == shown["image_key"]
    assert shown["caption_key"] == room.split.caption_keys[0]
    assert shown["reasons"] == ["what the picture predicts is something else", "too short"]
    assert [one["caption_key"] for one in shown["better"]] == [room.split.caption_keys[row] for row in (10, 20)]
    assert [one["image_key"] for one in shown["better"]] == [room.split.image_keys[row] for row in (2, 4)]
    room.close()


def test_judge__a_chosen_caption_is_two_verdicts_and_one_undo(tmp_path: Path) -> None:
    split = doubted(tmp_path)
    room = Room(split, own_pairs=True)
    shown = _ask(room)["candidate"]
    better = shown["better"][0]["caption_key"]
    state = _choose(room, shown, 1, better)
    assert state["candidate"]["caption_key"] != shown["caption_key"]
    assert [one["id"] for one in state["history"]] == ["verdict-0001"]
    said = {
        (one.caption_key, one.verdict) for one in pair_judgements.read(split, folder=split.folder / FOLDER).judgements
    }
    assert said == {(shown["caption_key"], "no match"), (better, "match")}
    _choose(room, shown, 1, better)  # asked again: nothing new
    assert len(verdicts.read(split.folder / FOLDER)) == 2
    back = _judge(room, shown, "undo", 2, undoes="verdict-0001")
    assert back["candidate"]["caption_key"] == shown["caption_key"]
    assert back["history"] == []
    assert not pair_judgements.read(split, folder=split.folder / FOLDER).judgements
    room.close()


def test_judge__a_caption_that_was_not_offered_is_refused(tmp_path: Path) -> None:
    room = Room(doubted(tmp_path), own_pairs=True)
    shown = _ask(room)["candidate"]
    with pytest.raises(ConfigError, match="not offered"):
        _choose(room, shown, 1, shown["caption_key"])
    assert not verdicts.read(room.split.folder / FOLDER)
    room.close()


def test_close__verdicts_lie_apart_from_those_on_candidates(tmp_path: Path) -> None:
    split = doubted(tmp_path)
    room = Room(split, own_pairs=True)
    _judge(room, _ask(room)["candidate"], "match", 1)
    assert room.close() == split.folder / FOLDER / verdicts.TABLE
    assert not (split.folder / "audit" / verdicts.TABLE).exists()


def test_room__without_an_audit_of_the_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cusa audit .* --pairs"):
        Room(Split(make_taught(tmp_path), "train"), own_pairs=True)


class TestPage:
    """In a real Chromium."""

    pytestmark = needs_browser

    @pytest.mark.parametrize("size", SIZES)
    def test_page__keep_wrong_and_a_better_one(self, browser: Any, tmp_path: Path, size: str) -> None:
        split = doubted(tmp_path)
        room = Room(split, own_pairs=True)
        with in_thread(room) as port:
            tab = Tab(browser, port, size=size)
            tab.until(lambda: tab.has_picture("image"))
            assert tab.fits()
            first = tab.shown()
            tab.press("1")
            tab.press("w")
            tab.press("k")
            rows = verdicts.read(split.folder / FOLDER)
            assert [row.verdict for row in rows] == ["match", "no match", "no match", "match"]
            for _ in range(3):
                tab.press("u")
            assert tab.shown() == first
            assert not pair_judgements.read(split, folder=split.folder / FOLDER).judgements
            assert tab.wrong == []


def test_sql__reads_what_reviewers_said_of_own_pairs(tmp_path: Path) -> None:
    split = doubted(tmp_path)
    with connect(split.work, runs=()) as database:
        assert database.run("SELECT * FROM pair_verdicts").rows == []
    with Journal(split.folder / FOLDER) as journal:
        for number, (row, word) in enumerate([(0, "no match"), (1, "match"), (2, "skip")]):
            keys = {
                "image_key": split.image_keys[split.caption_owner[row]],
                "caption_key": split.caption_keys[row],
            }
            journal.append(make(number, word, **keys))
    verdicts.publish(split.folder / FOLDER)
    with connect(split.work, runs=()) as database:
        joined = database.run(
            "SELECT v.verdict, w.text, p.p_wrong > 0.975 FROM pair_verdicts v JOIN pairs p USING (split, caption_key) "
            "JOIN captions w USING (split, caption_key) ORDER BY v.caption_key"
        ).rows
        everything = database.run("SELECT count(*) FROM pair_verdict_journal").rows
        candidates = database.run("SELECT count(*) FROM verdicts").rows
    assert [tuple(row) for row in joined] == [
        ("no match", split.texts[0], True),
        ("match", split.texts[1], False),
    ]
    assert everything[0][0] == 3
    assert candidates[0][0] == 0, "verdicts on candidates lie apart"


def test_run__own_pairs_and_drawn_samples_are_asked_about_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = doubted(tmp_path)
    done, room, _ = run_session(monkeypatch, split.work, questions=server.Questions(own_pairs=True))
    assert (room.folder, done.verdicts) == (split.folder / "audit/pairs", None)
    assert room.doubts is not None
    with Journal(split.folder / "audit/pairs") as journal:
        journal.append(make(1, image_key=split.image_keys[0], caption_key=split.caption_keys[0]))
    done, _, _ = run_session(monkeypatch, split.work, questions=server.Questions(own_pairs=True))
    assert (done.verdicts, done.pairs) == (split.folder / "audit/pairs/verdicts.parquet", 1)
    sample = write_sample(tmp_path / "sample.parquet", [(split.image_keys[1], split.caption_keys[0])])
    (split.folder / "audit").mkdir(exist_ok=True)
    done, room, _ = run_session(monkeypatch, split.work, split="train", questions=server.Questions(sample=sample))
    assert [one.pair for one in room.candidates.queue("").candidates] == [(split.image_keys[1], split.caption_keys[0])]
    assert (done.verdicts, done.pairs) == (None, 0)
