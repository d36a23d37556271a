"""The room without HTTP, over a drawn sample: whose turn a pair is, and every number that a reviewer is shown."""

import io
import random
import shutil
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from cusa.errors import ConfigError, DataError
from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.models.edits.rules import TITLES
from cusa.pipeline.review import room as room_module
from cusa.pipeline.review.queue import Candidate, Queue
from cusa.pipeline.review.room import Room
from cusa.pipeline.review.sample import SampledPairs
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.review.test_sample import write_sample
from tests.worlds import make_work

PAIRS = [(0, 7), (2, 0), (3, 5), (1, 8)]
"""Image and caption row of what is asked, in this order."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("room"), images=5, captions=2, splits=("train",))
    (work / "train/audit").mkdir()
    return work


@pytest.fixture
def split(made: Path, tmp_path: Path) -> Split:
    shutil.copytree(made, tmp_path / "work")
    return Split(tmp_path / "work", "train")


def _room(split: Split, *, votes: int = 1) -> Room:
    pairs = [(split.image_keys[image], split.caption_keys[caption]) for image, caption in PAIRS]
    return Room(split, votes=votes, sample=SampledPairs(split, write_sample(split.work / "sample.parquet", pairs)))


class Tab:
    """A reviewer's tab, which answers what it is shown."""

    def __init__(self, room: Room, reviewer: str, name: str) -> None:
        self._room, self.reviewer, self.name = room, reviewer, name
        self.state: dict[str, Any] = {}
        self._count = 0

    def next(self) -> int | None:
        """Ask for a pair; return its place in PAIRS."""
        self.state = self._room.next(reviewer=self.reviewer, tab=self.name)
        return self.shown

    @property
    def shown(self) -> int | None:
        """The place in PAIRS of what is shown."""
        candidate = self.state["candidate"]
        split = self._room.split
        if candidate is None:
            return None
        return PAIRS.index((split.image_row[candidate["image_key"]], split.caption_row[candidate["caption_key"]]))

    def say(self, verdict: str, **more: Any) -> int | None:
        """Judge what is shown, and return what is shown then."""
        self._count += 1
        pair = {name: self.state["candidate"][name] for name in ("image_key", "caption_key")}
        fields = {"id": f"{self.reviewer}-{self.name}-{self._count:04d}", **pair, **more}
        self.state = self._room.judge(verdict=verdict, reviewer=self.reviewer, tab=self.name, **fields)
        return self.shown


def test_next__what_nobody_looks_at_in_the_order_of_the_queue(split: Split) -> None:
    room = _room(split)
    ada, other, bob = Tab(room, "ada", "a-tab"), Tab(room, "ada", "b-tab"), Tab(room, "bob", "c-tab")
    assert [tab.next() for tab in (ada, other, bob)] == [0, 1, 2]
    assert ada.next() == 0, "its own pair stays its own"
    assert ada.say("match") == 3
    assert ada.say("related") is None
    assert ada.state["waiting"] == 2, "two are open in other tabs"
    assert other.say("skip") is None
    assert other.state["waiting"] == 1
    assert bob.say("no match") == 1, "what ada skipped"
    assert bob.say("duplicate") is None
    assert bob.state["waiting"] == 0
    room.close()


def test_next__a_pair_that_was_open_for_five_minutes_is_free_again(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(room_module.time, "monotonic", lambda: now)
    room = _room(split)
    assert Tab(room, "ada", "a-tab").next() == 0
    now += 299
    assert Tab(room, "bob", "b-tab").next() == 1
    now += 2
    assert Tab(room, "cleo", "c-tab").next() == 0
    room.close()


def test_state__every_number_of_progress_and_what_was_said_last(split: Split) -> None:
    room = _room(split, votes=2)
    ada, bob = Tab(room, "ada", "a-tab"), Tab(room, "bob", "b-tab")
    ada.next()
    bob.next()
    assert ada.state["progress"] == {
        **{"candidates": 4, "asked": 4, "done": 0, "mine": 0, "reviewers": 0, "verdicts": {}},
        **{"shared": 0, "unanimous": 0, "alpha": None},
    }
    assert bob.shown == 0, "two are asked about each"
    assert [ada.say("match"), ada.say("no match"), ada.say("skip")] == [1, 2, 3]
    assert [bob.say("match"), bob.say("related")] == [1, 2]
    assert bob.state["progress"] == {
        **{"candidates": 4, "asked": 4, "done": 2, "mine": 2, "reviewers": 2},
        **{"verdicts": {"match": 1, "disputed": 1}, "shared": 2, "unanimous": 1},
        # 1 - D_o / D_e of four votes, match, match, no match and related: (2 / 1) / (10 / 3) of them differ.
        "alpha": pytest.approx(1 - 2 / (10 / 3)),
    }
    keys = [(split.image_keys[image], split.caption_keys[caption]) for image, caption in PAIRS]
    expected = [("a-tab-0001", "match", 0), ("a-tab-0002", "no match", 1), ("a-tab-0003", "skip", 2)]
    ada.next()
    assert ada.state["history"] == [
        {"id": f"ada-{name}", "verdict": word, "image_key": keys[place][0], "caption_key": keys[place][1]}
        for name, word, place in expected
    ]
    assert ada.state["progress"]["mine"] == 3
    room.close()


def test_state__a_candidate_with_its_own_captions_and_its_caption_s_siblings(split: Split) -> None:
    room = _room(split, votes=2)
    Tab(room, "bob", "b-tab").next()
    with Journal(split.folder / verdicts.FOLDER) as other:  # another process's verdict is seen as well
        other.append(make(1, image_key=split.image_keys[0], caption_key=split.caption_keys[7], reviewer="zoe"))
    state = room.next(reviewer="ada", tab="a-tab")
    assert state["candidate"]["image_key"] == split.image_keys[2], "one vote given, one tab looking: enough"
    assert state["candidate"] == {
        "image_key": split.image_keys[2],
        "caption_key": split.caption_keys[0],
        "owner_image_key": split.image_keys[0],
        "source": "",
        "caption": split.texts[0],
        "own_captions": split.texts[4:6],
        "siblings": [split.texts[1]],
        "numbers": dict.fromkeys(
            ("score", "image_similarity", "text_similarity", "image_rank", "text_rank", "p_positive")
        ),
        "text_blind": None,
        "votes": 0,
    }
    bob = room.next(reviewer="bob", tab="b-tab")["candidate"]
    assert (bob["image_key"], bob["votes"], bob["siblings"]) == (split.image_keys[0], 1, [split.texts[6]])
    room.close()


def test_judge__what_was_shown_is_kept_and_asking_again_writes_nothing(split: Split) -> None:
    room = _room(split)
    ada = Tab(room, "ada", "a-tab")
    ada.next()
    before = verdicts.now()
    assert ada.say("match", id="verdict-0001") == 1
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[7]}
    again = room.judge(id="verdict-0001", verdict="match", reviewer="ada", tab="a-tab", **pair)
    assert again["progress"]["mine"] == 1
    (row,) = verdicts.read(split.folder / verdicts.FOLDER)
    assert (row.image_key, row.caption_key, row.verdict, row.reviewer) == (*pair.values(), "match", "ada")
    assert before <= row.judged_at <= verdicts.now()
    assert row.candidates_sha256 == room.candidates.sha256
    with pytest.raises(ConfigError, match="is no candidate of this review"):
        room.judge(
            **{"id": "verdict-0002", "verdict": "match", "reviewer": "ada", "tab": "a-tab"},
            **{"image_key": split.image_keys[1], "caption_key": split.caption_keys[0]},
        )
    assert room.close() == split.folder / verdicts.FOLDER / verdicts.TABLE
    assert [one.id for one in verdicts.read_table(split.folder / verdicts.FOLDER)] == ["verdict-0001"]


def test_judge__an_undo_shows_its_pair_again_to_whom_it_belongs(split: Split) -> None:
    room = _room(split)
    ada, bob = Tab(room, "ada", "a-tab"), Tab(room, "bob", "b-tab")
    ada.next()
    assert ada.say("match", id="verdict-0001") == 1
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[7]}
    undo = {**pair, "id": "verdict-0002", "undoes": "verdict-0001"}
    assert ada.say("undo", **undo) == 0
    assert ada.state["history"] == []
    assert ada.state["progress"]["done"] == ada.state["progress"]["mine"] == 0
    assert bob.next() == 1, "the pair is held by whom it was given back to"
    undone = next(row for row in verdicts.read(split.folder / verdicts.FOLDER) if row.id == "verdict-0002")
    assert (undone.candidates_sha256, undone.undoes) == (None, "verdict-0001")
    room.close()


def test_room__as_many_votes_as_are_asked_for_and_nobody_twice(split: Split) -> None:
    """Whatever the order in which people ask and answer: a draw of five reviewers with two tabs each."""
    drawn = random.Random(0)
    room = _room(split, votes=2)
    tabs = [Tab(room, name, f"{name}-{tab}") for name in ("ada", "bob", "cleo", "dan", "eve") for tab in "12"]
    voters: dict[int, list[str]] = defaultdict(list)
    for _ in range(200):
        tab = drawn.choice(tabs)
        if not tab.state or tab.shown is None or drawn.random() < 0.2:
            tab.next()
        else:
            place = tab.shown
            voters[place].append(tab.reviewer)
            tab.say(drawn.choice(["match", "related", "no match", "duplicate"]))
    assert sorted(voters) == [0, 1, 2, 3]
    assert all(len(names) == 2 == len(set(names)) for names in voters.values())
    assert all(tab.next() is None and tab.state["waiting"] == 0 for tab in tabs)
    assert tabs[0].state["progress"]["done"] == 4
    assert room.close() is not None


def test_image__bytes_and_type_or_a_named_error(split: Split) -> None:
    room = _room(split)
    assert [room.image(key) for key in split.image_keys] == [(split.image_bytes(row), "image/jpeg") for row in range(5)]
    with pytest.raises(DataError, match="The split 'train' has no image 'mini/none'"):
        room.image("mini/none")
    assert room.close() is None
    assert not (split.folder / verdicts.FOLDER / verdicts.TABLE).exists()


class Numbered(SampledPairs):
    """Pairs with numbers that are shown, as the audit's candidates have them."""

    def __init__(self, split: Split) -> None:
        pairs = [(split.image_keys[image], split.caption_keys[caption]) for image, caption in PAIRS]
        numbers = (0.5, 0.25, 0.125, 3, 4, 0.75)
        blind = (next(iter(TITLES)), None, None, None)
        rows = tuple(Candidate(*pair, *numbers, edit) for pair, edit in zip(pairs, blind, strict=True))
        self._queue = Queue(rows, 9, {row.pair: place for place, row in enumerate(rows)})
        self.sha256 = "ab" * 32


def test_judge__the_numbers_that_were_shown_are_kept_with_the_verdict(split: Split) -> None:
    room = Room(split, sample=Numbered(split))
    ada = Tab(room, "ada", "a-tab")
    ada.next()
    numbers = {"score": 0.5, "image_similarity": 0.25, "text_similarity": 0.125, "image_rank": 3, "text_rank": 4}
    numbers["p_positive"] = 0.75
    assert ada.state["candidate"]["numbers"] == numbers
    assert ada.state["candidate"]["text_blind"] == next(iter(TITLES.values()))
    assert (ada.state["progress"]["candidates"], ada.state["progress"]["asked"]) == (9, 4)
    ada.say("related", id="verdict-0001")
    assert ada.state["candidate"]["text_blind"] is None
    pair = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[7]}
    ada.say("undo", id="verdict-0002", undoes="verdict-0001", **pair)
    said, undone = verdicts.read(split.folder / verdicts.FOLDER)
    assert {name: getattr(said, name) for name in numbers} == numbers
    assert (said.candidates_sha256, undone.candidates_sha256) == ("ab" * 32, None)
    assert {getattr(undone, name) for name in numbers} == {None}
    room.close()


def test_state__the_last_fifty_words_of_a_reviewer_in_the_order_of_their_time(split: Split) -> None:
    start = datetime(2026, 11, 30, tzinfo=UTC)
    numbers = list(range(60))
    random.Random(0).shuffle(numbers)
    with Journal(split.folder / verdicts.FOLDER) as journal:
        for number in numbers:
            journal.append(make(number, "match", judged_at=start + timedelta(seconds=number)))
        journal.append(make(99, "match", "bob", judged_at=start))
    room = _room(split)
    state = room.next(reviewer="ada", tab="a-tab")
    assert [one["id"] for one in state["history"]] == [f"verdict-{number:04d}" for number in range(10, 60)]
    assert (state["progress"]["mine"], state["progress"]["reviewers"]) == (60, 2)
    assert state["progress"]["done"] == 0, "none of them is asked about here"
    assert state["progress"]["verdicts"] == {"match": 61}
    room.close()


@pytest.mark.parametrize(
    ("ext", "kind"),
    [
        *(("jpg", "image/jpeg"), ("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")),
        *(("gif", "image/gif"), ("bmp", "image/bmp"), ("tiff", None), ("avif", None)),
    ],
)
def test_image__as_browsers_read_it_or_as_a_jpeg(split: Split, ext: str, kind: str | None) -> None:
    room = _room(split)
    table = split.samples
    split.samples = table.set_column(table.column_names.index("ext"), "ext", pa.array([ext] * len(table)))
    data, told = room.image(split.image_keys[1])
    if kind is not None:
        assert (data, told) == (split.image_bytes(1), kind)
    else:
        assert told == "image/jpeg"
        assert data != split.image_bytes(1)
        shown, stored = (Image.open(io.BytesIO(one)) for one in (data, split.image_bytes(1)))
        assert (shown.format, shown.size) == ("JPEG", stored.size)
    room.close()
