"""Flickr8k's judgements: the official rows against plain counts, any other file against its own words."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.manifests.judgements import flickr8k
from cusa.manifests.judgements.flickr8k import CROWD, EXPERTS, JudgedPair
from cusa.manifests.samples import Split
from tests.worlds import make_work


def test_read__the_official_rows(shared: Path) -> None:
    folder = shared / "data/flickr8k"
    judgements = flickr8k.read(folder)
    experts = [line.split("\t") for line in (folder / EXPERTS).read_text().splitlines()]
    crowd = [line.split("\t") for line in (folder / CROWD).read_text().splitlines()]
    assert len(judgements.pairs) == len({(row[0], row[1]) for row in experts + crowd})
    by_pair = {(pair.image, pair.caption): pair for pair in judgements.pairs}
    for image, caption, *scores in experts:
        pair = by_pair[image, caption]
        assert pair.median == sorted(map(int, scores))[1]
        assert pair.own == caption.startswith(f"{image}#")
    for image, caption, share, _, _ in crowd:
        assert by_pair[image, caption].share == pytest.approx(float(share))
    assert sum(pair.own for pair in judgements.pairs if pair.scores) == 76
    assert judgements.rows == {EXPERTS: 2778, CROWD: 22_580}
    assert "2,778 of the 5,822 official rows of ExpertAnnotations.txt (47.7 %)" in judgements.coverage


PAIRS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 30),
        st.tuples(*[st.integers(1, 4)] * 3),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1,
    unique_by=lambda row: row[:2],
)


@given(rows=PAIRS)
def test_read__what_was_written(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("judged")
    expected = [
        JudgedPair(f"{image}.jpg", f"{caption // 5}.jpg#{caption % 5}", scores, yes, no)
        for image, caption, scores, yes, no in rows
    ]
    lines = ["\t".join([pair.image, pair.caption, *map(str, pair.scores)]) for pair in expected]
    (folder / EXPERTS).write_text("\n".join(lines))
    voted = [pair for pair in expected if pair.share is not None]
    votes = [f"{pair.image}\t{pair.caption}\t{pair.share:.15g}\t{pair.yes}\t{pair.no}" for pair in voted]
    if votes:
        (folder / CROWD).write_text("\r\n".join(votes))
    assert list(flickr8k.read(folder).pairs) == expected
    assert [pair.scores for pair in flickr8k.read(folder / EXPERTS).pairs] == [pair.scores for pair in expected]
    if votes:
        assert [pair.share for pair in flickr8k.read(folder / CROWD).pairs] == [pair.share for pair in voted]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (EXPERTS, "a.jpg\tb.jpg#0\t1\t2", "4 fields"),
        (EXPERTS, "a.jpg\tb.jpg\t1\t2\t3", "no caption id"),
        (EXPERTS, "a.jpg\tb.jpg#0\t1\t2\t5", "not between 1 and 4"),
        (EXPERTS, "a.jpg\tb.jpg#0\t1\t2\t2.5", "invalid literal"),
        (EXPERTS, "\tb.jpg#0\t1\t2\t2", "no image"),
        (CROWD, "a.jpg\tb.jpg#0\t0.5\t3\t0", "share 0.5 is not that of 3 yes and 0 no"),
        (CROWD, "a.jpg\tb.jpg#0\tnan\t3\t0", "share nan"),
        (CROWD, "a.jpg\tb.jpg#0\t0\t0\t0", "no votes"),
        (CROWD, "a.jpg\tb.jpg#0\t-1\t-1\t2", "no votes"),
        (CROWD, "a.jpg\tb.jpg#0\t2\t2\t-1", "no votes"),
        (CROWD, "x.jpg\tb.jpg#0\t1\t3\t0", "judged in an earlier line"),
    ],
)
def test_read__a_line_that_is_no_judgement_is_named(tmp_path: Path, file: str, line: str, message: str) -> None:
    first = {EXPERTS: "x.jpg\tb.jpg#0\t1\t1\t1", CROWD: "x.jpg\tb.jpg#0\t1\t3\t0"}[file]
    (tmp_path / file).write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=rf"{file}:2 is no judgement \(.*{message}"):
        flickr8k.read(tmp_path)


def test_read__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither ExpertAnnotations.txt nor CrowdFlowerAnnotations.txt"):
        flickr8k.read(tmp_path)
    (tmp_path / CROWD).write_text("\n")
    with pytest.raises(DataError, match="holds no judgement"):
        flickr8k.read(tmp_path)


def test_describes__the_experts_decide_before_the_crowd() -> None:
    pairs = [((3, 3, 1), 0, 9), ((2, 2, 4), 9, 0), ((), 2, 1), ((), 3, 2)]
    assert [JudgedPair("a", "b#0", *judged).describes for judged in pairs] == [True, False, True, False]


def test_locate__by_file_name_and_number_and_words(tmp_path: Path) -> None:
    """The world's captions have running numbers for ids, as Karpathy's file has."""
    split = Split(make_work(tmp_path / "world", images=3, splits=("test",)), "test")
    names = [Path(source).name for source in split.samples["source"].to_pylist()]
    judged = [(0, 1, 2), (1, 0, 4), (2, 2, 0)]
    lines = [f"{names[image]}\t{names[owner]}#{k}\t1\t2\t3" for image, owner, k in judged]
    lines += [
        f"none.jpg\t{names[0]}#0\t1\t1\t1",
        f"{names[0]}\tnone.jpg#0\t1\t1\t1",
        f"{names[0]}\t{names[1]}#7\t1\t1\t1",
    ]
    (tmp_path / EXPERTS).write_text("\n".join(lines))
    located = flickr8k.locate(split, flickr8k.read(tmp_path))
    assert located.images.tolist() == [0, 1, 2]
    assert located.captions.tolist() == [7, 4, 10]
    assert located.unknown == 3
    # The token file numbers the captions otherwise, and one of them is not in the split.
    texts = {f"{names[1]}#2": split.texts[8].upper(), f"{names[0]}#4": split.texts[4], f"{names[2]}#0": "Other words ."}
    (tmp_path / flickr8k.TOKENS).write_text("\n".join(f"{name}\t{text}" for name, text in texts.items()))
    located = flickr8k.locate(split, flickr8k.read(tmp_path))
    assert located.images.tolist() == [0, 1]
    assert located.captions.tolist() == [8, 4]
    assert located.unknown == 4


def test_locate__the_whole_test_split_by_either_annotation(shared: Path) -> None:
    """Every judged pair of the official files is found among the official test captions."""
    folder = shared / "data/flickr8k"
    judgements = flickr8k.read(folder)
    test = set((folder / "Flickr_8k.testImages.txt").read_text().split())
    assert {pair.image for pair in judgements.pairs} | {pair.owner for pair in judgements.pairs} <= test
    assert len(judgements.texts) == len({pair.caption for pair in judgements.pairs})


def test_files__of_a_folder_or_the_one_that_is_given_and_their_digests(tmp_path: Path) -> None:
    assert (flickr8k.files(tmp_path), flickr8k.digests(tmp_path), flickr8k.is_layout(tmp_path)) == ({}, {}, False)
    content = {name: name.encode() for name in (EXPERTS, CROWD, flickr8k.TOKENS, "other.txt")}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert flickr8k.files(tmp_path) == {name: tmp_path / name for name in (EXPERTS, CROWD)}
    assert flickr8k.digests(tmp_path) == {name: sums[name] for name in (EXPERTS, CROWD, flickr8k.TOKENS)}
    assert flickr8k.files(tmp_path / CROWD) == {CROWD: tmp_path / CROWD}
    assert flickr8k.digests(tmp_path / CROWD) == {name: sums[name] for name in (CROWD, flickr8k.TOKENS)}
    assert flickr8k.is_layout(tmp_path / EXPERTS)
    assert not flickr8k.is_layout(tmp_path / "other.txt")
    (tmp_path / flickr8k.TOKENS).unlink()
    assert flickr8k.digests(tmp_path / EXPERTS) == {EXPERTS: sums[EXPERTS]}


def test_read__a_pair_of_both_files_and_the_words_of_judged_captions_alone(tmp_path: Path) -> None:
    (tmp_path / EXPERTS).write_bytes(b"\xef\xbb\xbfa.jpg\tb.jpg#1\t1\t2\t4\r\n\n")
    (tmp_path / CROWD).write_text("a.jpg\tb.jpg#1\t0.6667\t2\t1\nc.jpg\tb.jpg#0\t0\t0\t3\n")
    (tmp_path / flickr8k.TOKENS).write_text("b.jpg#0\tA dog .\nb.jpg#1\tA\tcat .\nb.jpg#2\tno\n")
    found = flickr8k.read(tmp_path)
    assert found.pairs == (JudgedPair("a.jpg", "b.jpg#1", (1, 2, 4), 2, 1), JudgedPair("c.jpg", "b.jpg#0", (), 0, 3))
    assert found.rows == {EXPERTS: 1, CROWD: 2}
    assert found.texts == {"b.jpg#0": "A dog .", "b.jpg#1": "A\tcat ."}
    assert found.coverage.startswith("Read 1 of the 5,822 official rows of ExpertAnnotations.txt (0.0 %) and 2 of the")
    assert [pair.own for pair in found.pairs] == [False, False]
    assert (JudgedPair("a", "a#0").median, JudgedPair("a", "a#0").share) == (None, None)
    assert (JudgedPair("a", "a#0").describes, JudgedPair("a", "a#0").own) == (False, True)


@pytest.mark.parametrize(("share", "taken"), [("0.66670", True), ("0.6666", True), ("0.6669", False), ("0.6", False)])
def test_read__a_share_is_that_of_the_votes_to_four_digits(tmp_path: Path, share: str, taken: bool) -> None:
    (tmp_path / CROWD).write_text(f"a.jpg\tb.jpg#1\t{share}\t2\t1\n")
    if taken:
        assert flickr8k.read(tmp_path).pairs[0].share == pytest.approx(2 / 3)
    else:
        with pytest.raises(DataError, match="is not that of 2 yes and 1 no"):
            flickr8k.read(tmp_path)


def _located(split: Split, folder: Path, *pairs: tuple[str, str]) -> list[tuple[int, int]]:
    (folder / EXPERTS).write_text("\n".join(f"{image}\t{caption}\t1\t1\t1" for image, caption in pairs))
    found = flickr8k.locate(split, flickr8k.read(folder))
    assert found.unknown == len(pairs) - len(found.pairs)
    assert [pair.image for pair in found.pairs] == [
        Path(split.samples["source"][row].as_py()).name for row in found.images
    ]
    return list(zip(found.images.tolist(), found.captions.tolist(), strict=True))


def test_locate__a_caption_s_own_id_stands_before_its_number_and_shared_names_are_nobody_s(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path / "world", images=3, captions=2, splits=("test",)), "test")
    names = [Path(source).name for source in split.samples["source"].to_pylist()]
    pair = (names[0], f"{names[1]}#0")
    assert _located(split, tmp_path, pair) == [(0, 2)], "by its number among its image's"
    ids = split.captions["caption_id"].to_pylist()

    def rename(table: pa.Table, column: str, values: list[str]) -> pa.Table:
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    split.captions = rename(split.captions, "caption_id", [*ids[:3], f"{names[1]}#0", *ids[4:]])
    assert _located(split, tmp_path, pair) == [(0, 3)], "by the id that it has"
    split.captions = rename(split.captions, "caption_id", [f"{names[1]}#0", *ids[1:3], f"{names[1]}#0", *ids[4:]])
    assert _located(split, tmp_path, pair) == [(0, 2)], "an id of two captions is none's"
    sources = split.samples["source"].to_pylist()
    split.samples = rename(split.samples, "source", [sources[0], sources[1], f"elsewhere/{names[0]}"])
    assert _located(split, tmp_path, pair, (names[1], f"{names[0]}#0"), (names[1], f"{names[1]}#1")) == [(1, 3)]
