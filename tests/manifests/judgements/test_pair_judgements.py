"""From several people's verdicts to one a pair."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, PairJudgement, group_first
from cusa.manifests.judgements.verdicts import Journal, Verdict
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


def votes(*words: str) -> list[Verdict]:
    return [
        make(number, word, f"reviewer {number}", caption_key="mini/b#0") for number, word in enumerate(words) if word
    ]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["match"], "match"),
        (["match", "match", "no match"], "match"),
        (["match", "no match"], DISPUTED),
        (["match", "related", "no match"], DISPUTED),
        (["match", "duplicate"], "match"),
        (["match", "duplicate", "duplicate"], "duplicate"),
        (["match", "duplicate", "no match"], "match"),
        (["match", "duplicate", "no match", "no match"], DISPUTED),
        (["no match", "skip"], "no match"),
        (["related", "related", "no match"], "related"),
    ],
)
def test_settle__needs_more_than_half(words: Sequence[str], answer: str) -> None:
    for order in permutations(words):
        (one,) = pair_judgements.majority_verdicts(votes(*order))
        assert one.verdict == answer
        assert one.positive == (answer in ("match", "duplicate"))


def test_settle__a_reviewers_last_word_counts_once() -> None:
    rows = [
        make(1, "no match", caption_key="mini/b#0"),
        make(2, "match", caption_key="mini/b#0"),
        make(3, "skip", caption_key="mini/b#0"),
    ]
    (one,) = pair_judgements.majority_verdicts(rows)
    assert one.votes == {"ada": "match"}
    undone = [*rows, make(4, "undo", caption_key="mini/b#0", undoes="verdict-0002")]
    assert pair_judgements.majority_verdicts(undone)[0].votes == {"ada": "no match"}
    again = [*undone, make(5, "undo", caption_key="mini/b#0", undoes="verdict-0001")]
    assert pair_judgements.majority_verdicts(again) == []
    assert [row.verdict for row in pair_judgements.standing(again)] == ["skip"]


@given(st.lists(st.sampled_from(["match", "related", "no match", "duplicate", "skip"]), min_size=1, max_size=7))
def test_settle__never_against_more_than_half(words: list[str]) -> None:
    spoken = [word for word in words if word != "skip"]
    found = pair_judgements.majority_verdicts(votes(*words))
    assert len(found) == bool(spoken)
    for one in found:
        for word in set(spoken):
            if 2 * spoken.count(word) > len(spoken):
                assert one.verdict == word


def _given(rows: Sequence[str]) -> list[PairJudgement]:
    """Return pairs from the columns of a table, a letter a vote and `.` for none."""
    return [
        PairJudgement(
            "i", f"c{column}", "", {f"r{row}": line[column] for row, line in enumerate(rows) if line[column] != "."}
        )
        for column in range(len(rows[0]))
    ]


def test_agreement__krippendorffs_own_example() -> None:
    # Section C of his note: four observers, twelve units.
    found = pair_judgements.agreement(_given(["123321412...", "1233224125.3", ".3332342251.", "12332441251."]))
    assert found.pairs == 11
    assert found.unanimous == 8
    assert found.alpha == pytest.approx(0.743, abs=5e-4)


def test_agreement__bounds() -> None:
    assert pair_judgements.agreement([]) == pair_judgements.Agreement(0, 0, None)
    assert pair_judgements.agreement(_given(["ab", "ab"])) == pair_judgements.Agreement(2, 2, 1.0)
    assert pair_judgements.agreement(_given(["aa", "aa"])).alpha is None
    assert pair_judgements.agreement(_given(["ab", "ba"])) == pair_judgements.Agreement(2, 0, pytest.approx(-0.5))
    assert pair_judgements.agreement(_given(["ab.", "a.."])) == pair_judgements.Agreement(1, 1, None)


def test_judged__keeps_and_reports_keys_that_are_gone(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("train",)), "train")
    assert pair_judgements.read(split).judgements == ()
    folder = split.folder / "audit"
    folder.mkdir()
    first, second = split.image_keys[0], split.caption_keys[-1]
    with Journal(folder) as journal:
        journal.append(make(1, image_key=first, caption_key=second))
        journal.append(make(2, image_key="mini/gone", caption_key=second))
        journal.append(make(3, image_key=first, caption_key="mini/gone#1"))
        journal.append(make(4, "skip", image_key=first, caption_key=split.caption_keys[-2]))
    found = pair_judgements.read(split)
    assert found.pairs("match") == [(first, second)]
    assert [(one.image_key, one.caption_key) for one in found.unknown] == [
        *(("mini/gone", second), (first, "mini/gone#1")),
    ]
    assert found.pairs() == found.pairs("related") == []
    assert pair_judgements.pair_rows(split, found, "match", "duplicate").tolist() == [[0, split.num_captions - 1]]
    assert pair_judgements.pair_rows(split, found, "related").shape == (0, 2)
    assert found.skipped == {(first, split.caption_keys[-2])}
    (note,) = found.notes()
    assert "2 pairs" in note
    assert "mini/gone" in note
    assert found.digest != pair_judgements.read(split, folder=tmp_path).digest


@given(st.integers(1, 12), st.data())
def test_merged__is_the_first_of_a_connected_component(number: int, data: Any) -> None:
    row = st.integers(0, number - 1)
    couples = data.draw(st.lists(st.tuples(row, row), max_size=15))
    groups = [{row} for row in range(number)]
    for _ in range(number):
        for one, other in couples:
            joined = groups[one] | groups[other]
            for member in joined:
                groups[member] = joined
    assert group_first(number, couples).tolist() == [min(group) for group in groups]


def test_true_pairs__own_matches_and_what_follows_from_copies(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, captions=2, splits=("train",)), "train")
    (split.folder / "audit").mkdir()
    # Images 0 and 2 are one; caption 6 (of image 3) is true of image 2; caption 1 (of image 0) of image 1.
    said = {(0, 4): "duplicate", (2, 6): "match", (1, 1): "match", (1, 7): "no match", (3, 0): "related"}
    with Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(said.items()):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    found = pair_judgements.true_pairs(split, pair_judgements.read(split)).tolist()
    expected = {0: {0, 1, 4, 5, 6}, 1: {1, 2, 3}, 2: {0, 1, 4, 5, 6}, 3: {6, 7}}
    assert found == [[image, caption] for image, captions in expected.items() for caption in sorted(captions)]


def test_read__the_digest_is_of_pairs_and_verdicts_and_of_nothing_else(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("train",)), "train")

    def digest(*rows: tuple[str, int, str], image: int = 0) -> str:
        folder = tmp_path / f"audit-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with Journal(folder) as journal:
            for number, (word, caption, reviewer) in enumerate(rows):
                keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
                journal.append(make(number, word, reviewer=reviewer, **keys))
        return pair_judgements.read(split, folder=folder).digest

    words = ("match", "no match", "related", "duplicate")
    assert len({digest((word, 7, "Ann")) for word in words}) == len(words)
    assert digest(("match", 7, "Ann")) != digest(("match", 8, "Ann"))
    assert digest(("match", 7, "Ann")) != digest(("match", 7, "Ann"), image=2)
    assert digest() == store.digest([])
    assert digest(("match", 7, "Ann")) == store.digest([(split.image_keys[0], split.caption_keys[7], "match")])
    assert digest(("match", 7, "Ann")) == digest(("match", 7, "Bob"))
    assert digest(("match", 7, "Ann"), ("related", 8, "Ann")) == digest(("related", 8, "Ann"), ("match", 7, "Ann"))
    assert digest() != digest(("match", 7, "Ann"))


def test_words__that_tables_and_pages_use() -> None:
    assert DISPUTED == "disputed"
    assert [_pair(*words).unanimous for words in (["match"], ["match"] * 3, ["match", "related"])] == [
        True,
        True,
        False,
    ]
    assert [_pair("x", verdict=word).positive for word in ("match", "duplicate", "related", "no match", DISPUTED)] == [
        *(True, True, False, False, False),
    ]


def _pair(*words: str, verdict: str = "match") -> PairJudgement:
    return PairJudgement("i", "c", verdict, {f"r{number}": word for number, word in enumerate(words)})


def test_same_images__by_the_first_row_of_all_that_are_one(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=5, captions=2, splits=("train",)), "train")
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for number, (image, caption, word) in enumerate([(4, 3, "duplicate"), (1, 5, "duplicate"), (0, 6, "match")]):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    judgements = pair_judgements.read(split)
    assert pair_judgements.same_images(split, judgements).tolist() == [0, 1, 1, 3, 1]
