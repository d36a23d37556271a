"""Parts of an evaluation: rankings of some queries, embeddings of some rows, the same as all at once."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.eval.ranking import Ranking, Truth, rank_by_each, ranked_by, score_blocks
from cusa.eval.units import Ranked, rank_some, read_parts
from cusa.manifests.storage import packed


def _same(one: Ranking, other: Ranking) -> None:
    for field in fields(Ranking):
        first, second = getattr(one, field.name), getattr(other, field.name)
        assert first.dtype == second.dtype, field.name
        assert np.array_equal(first, second, equal_nan=True), field.name


def _rows(number: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(-2, 3, (number, 6)).astype(np.float32)  # many ties
    rows[number // 2 :: 5] = rows[0]
    return rows


@pytest.mark.parametrize("within", [False, True], ids=["between", "within"])
@pytest.mark.parametrize("top", [1, 4])
def test_rank_some__parts_are_the_whole(tmp_path: Path, within: bool, top: int) -> None:
    rng = np.random.default_rng(3)
    gallery = _rows(45, 1)
    queries = gallery if within else _rows(37, 2)
    relevant = [np.sort(rng.permutation(45)[: rng.integers(0, 5)]) for _ in queries]
    truths = [
        Truth(relevant),
        Truth([rows[:1] for rows in relevant], np.array([len(rows) + 1 for rows in relevant]), at_r=False),
    ]
    exclude = np.arange(len(queries)) if within else None
    blocks = score_blocks(queries, gallery, 10)
    expected = rank_by_each(iter(blocks), truths, exclude=exclude, top=top)
    packed.write(tmp_path, packed.pack(Ranked.of(blocks, truths, exclude, top), classes=(Ranked,), outside={}))
    opened, _ = packed.read(tmp_path, classes=(Ranked,), outside={})
    units = opened.units()
    assert [len(rows) for rows in units] == [10] * (len(queries) // 10) + [len(queries) % 10]
    made = read_parts([rank_some(opened, rows) for rows in units], len(truths), top)
    for one, other in zip(expected, made, strict=True):
        _same(one, other)


def test_rank_by_each__asks_others_where_there_are_several_blocks() -> None:
    asked: list[int] = []
    queries, right = _rows(20, 1), [np.array([0])] * 20

    def ranker(blocks: object, truths: object, exclude: object, top: int) -> list[Ranking]:
        asked.append(top)
        return []

    with ranked_by(ranker):
        assert rank_by_each(score_blocks(queries, queries, 7), [Truth(right)], top=3) == []
        assert len(rank_by_each(score_blocks(queries, queries, 20), [Truth(right)], top=3)) == 1
        assert len(rank_by_each(iter(score_blocks(queries, queries, 7)), [Truth(right)], top=3)) == 1
    assert len(rank_by_each(score_blocks(queries, queries, 7), [Truth(right)], top=3)) == 1
    assert asked == [3]


def test_rank_some__a_row_that_is_no_number_is_refused_wherever_it_is_ranked() -> None:
    queries, gallery = _rows(12, 1), _rows(9, 2)
    gallery[4, 2] = np.nan
    ranked = Ranked.of(score_blocks(queries, gallery, 4), [Truth([np.array([0])] * 12)], None, 2)
    with pytest.raises(DataError, match="gallery embeddings hold NaN"):
        rank_some(ranked, range(8, 12))
