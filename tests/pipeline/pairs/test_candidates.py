"""Candidates: the same pairs, similarities and ranks as plain loops over every pair find."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.candidates import Candidates, Finder, among, find_all, merge, weighted_mean


def _rows(seed: int, number: int, width: int = 5) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _modality(seed: int, number: int, k: int) -> Modality:
    rows = _rows(seed, number)
    return Modality(rows, nearest_rows(rows, k))


def _by_loops(
    owner: list[int], images: Modality | None, texts: Modality | None, number: int
) -> dict[tuple[int, int], tuple[float, float, int, int, float]]:
    """Return (image, caption) -> similarities, ranks and score, by the definition, pair after pair."""
    out = {}
    for i in range(number):
        own = [c for c, j in enumerate(owner) if j == i]
        for c, j in enumerate(owner):
            if i == j:
                continue
            near = image_rank = text_rank = 0
            image_similarity = text_similarity = float("nan")
            parts = []
            if images is not None:
                lists = images.near.ids.tolist()
                near += i in lists[j] or j in lists[i]
                image_similarity = float(images.rows[i].astype(float) @ images.rows[j].astype(float))
                image_rank = lists[i].index(j) + 1 if j in lists[i] else 0
                parts.append(image_similarity)
            if texts is not None:
                lists = texts.near.ids.tolist()
                near += any(c in lists[o] or o in lists[c] for o in own)
                if own:
                    text_similarity = max(float(texts.rows[c].astype(float) @ texts.rows[o].astype(float)) for o in own)
                    text_rank = min((lists[c].index(o) + 1 for o in own if o in lists[c]), default=0)
                    parts.append(text_similarity)
            if near:
                score = min(max(sum(parts) / len(parts), 0.0), 1.0)
                out[i, c] = (image_similarity, text_similarity, image_rank, text_rank, score)
    return out


@settings(max_examples=40, deadline=None)
@given(
    owner=st.lists(st.integers(0, 6), min_size=2, max_size=25),
    depth=st.integers(1, 8),
    seed=st.integers(0, 5),
    which=st.sampled_from(["both", "image", "text"]),
)
def test_find_all__equals_plain_loops(owner: list[int], depth: int, seed: int, which: str) -> None:
    number = 7
    images = _modality(seed, number, depth) if which != "text" else None
    texts = _modality(seed + 100, len(owner), depth) if which != "image" else None
    finder = Finder(
        np.array(owner),
        images=images,
        texts=texts,
        image_content=np.arange(number),
        caption_content=np.arange(len(owner)),
    )
    got = merge(list(find_all(finder, num_images=number, minimum_score=0.0, images_a_block=3)))
    expected = _by_loops(owner, images, texts, number)
    assert set(zip(got.image.tolist(), got.caption.tolist(), strict=True)) == set(expected)
    assert len(got.score) == len(expected)
    for row in range(len(got.score)):
        wanted = expected[int(got.image[row]), int(got.caption[row])]
        np.testing.assert_allclose([got.image_similarity[row], got.text_similarity[row]], wanted[:2], atol=1e-5)
        assert (got.image_rank[row], got.text_rank[row]) == wanted[2:4]
        np.testing.assert_allclose(got.score[row], wanted[4], atol=1e-3)
    assert (np.diff(got.score) <= 0).all()


def _nearest(queries: np.ndarray, rows: np.ndarray, depth: int) -> np.ndarray:
    return np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :depth]


@pytest.mark.parametrize("depth", [None, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_find__a_student_names_candidates_in_both_directions(seed: int, depth: int | None) -> None:
    """Captions near an image, and captions that it is near to; images beyond the last caption's owner too."""
    rng = np.random.default_rng(seed)
    owner, number = np.sort(rng.integers(0, 6, 14)), 8
    images, captions = _rows(seed, number), _rows(seed + 50, len(owner))
    cross = CrossModal(images, captions, _nearest(images, captions, 4), _nearest(captions, images, 3))
    finder = Finder(
        owner, images=None, texts=None, image_content=np.arange(number), caption_content=np.arange(14), cross=cross
    )
    expected = {
        (i, c)
        for i in range(number)
        for c in range(len(owner))
        if owner[c] != i
        and (c in cross.near_captions[i, :depth].tolist() or i in cross.near_images[c, :depth].tolist())
    }
    got = finder.find(np.arange(number), depth=depth)
    pairs = list(zip(got.image.tolist(), got.caption.tolist(), strict=True))
    assert pairs == sorted(expected)
    np.testing.assert_allclose(got.cross_similarity, [images[i] @ captions[c] for i, c in pairs], atol=1e-6)
    assert np.isnan(got.image_similarity).all()
    assert np.isnan(got.text_similarity).all()
    assert not got.score.any()


def test_find_all__the_threshold_leaves_out_what_is_below() -> None:
    owner = np.repeat(np.arange(6), 2)
    finder = Finder(
        owner,
        images=_modality(0, 6, 5),
        texts=_modality(1, 12, 11),
        image_content=np.arange(6),
        caption_content=np.arange(12),
    )
    every, some = (merge(list(find_all(finder, num_images=6, minimum_score=at, images_a_block=4))) for at in (0.0, 0.5))
    assert len(every.score) == 6 * 10
    assert some.score.tolist() == [score for score in every.score.tolist() if score >= 0.5] != []


def test_find_all__threads_find_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = np.repeat(np.arange(20), 3)
    finder = Finder(
        owner,
        images=_modality(0, 20, 5),
        texts=_modality(1, 60, 8),
        image_content=np.arange(20),
        caption_content=np.arange(60),
    )
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [{"user_api": "blas", "num_threads": threads}])  # noqa: B023
        found.append(list(find_all(finder, num_images=20, images_a_block=3, per_image=4)))
    assert [one.image.tolist() for one in found[0]] == [one.image.tolist() for one in found[1]]
    assert [one.caption.tolist() for one in found[0]] == [one.caption.tolist() for one in found[1]]
    every = merge(list(find_all(finder, num_images=20)))
    for image in range(20):
        best = merge(found[1])
        assert best.caption[best.image == image].tolist() == every.caption[every.image == image][:4].tolist()


def test_find_all__equal_bytes_and_same_words_are_marked() -> None:
    owner = np.array([0, 1, 2])
    finder = Finder(
        owner,
        images=_modality(0, 3, 2),
        texts=_modality(1, 3, 2),
        image_content=np.array([0, 1, 0]),
        caption_content=np.array([0, 0, 1]),
    )
    got = merge(list(find_all(finder, num_images=3, minimum_score=0, images_a_block=3)))
    marks = {
        (i, c): (a, b)
        for i, c, a, b in zip(
            got.image.tolist(), got.caption.tolist(), got.duplicate_image, got.duplicate_caption, strict=True
        )
    }
    assert {pair for pair, (image, _) in marks.items() if image} == {(0, 2), (2, 0)}
    assert {pair for pair, (_, caption) in marks.items() if caption} == {(0, 1), (1, 0)}


@settings(max_examples=30, deadline=None)
@given(
    owner=st.lists(st.integers(0, 6), min_size=2, max_size=25),
    depth=st.integers(1, 8),
    seed=st.integers(0, 5),
    which=st.sampled_from(["both", "image", "text"]),
)
def test_captions_near__a_smaller_depth_is_a_table_that_was_cut(
    owner: list[int], depth: int, seed: int, which: str
) -> None:
    finders = []
    for k in (8, depth):
        finders.append(
            Finder(
                np.array(owner),
                images=_modality(seed, 7, k) if which != "text" else None,
                texts=_modality(seed + 100, len(owner), k) if which != "image" else None,
                image_content=np.arange(7),
                caption_content=np.arange(len(owner)),
            )
        )
    for image in range(7):
        assert finders[0].captions_near(image, depth).tolist() == finders[1].captions_near(image).tolist()
        everything = finders[0].find([image], everything=True).caption.tolist()
        assert everything == [caption for caption, own in enumerate(owner) if own != image]


def test_nearest_own_caption__by_the_text_teacher_or_the_first() -> None:
    texts = Modality(np.eye(4, dtype=np.float32)[[0, 1, 1, 2]], nearest_rows(_rows(0, 4), 1))
    owner = np.array([0, 0, 1, 1])
    content = {"image_content": np.arange(3), "caption_content": np.arange(4)}
    assert Finder(owner, images=None, texts=texts, **content).nearest_own_caption(0, 2) == 1
    assert Finder(owner, images=None, texts=None, **content).nearest_own_caption(0, 2) == 0
    assert Finder(owner, images=None, texts=texts, **content).nearest_own_caption(2, 0) is None


def _candidates(rows: list[tuple[int, int, float, float]]) -> Candidates:
    """Make candidates of image, caption, score and probability."""
    image, caption, score, probability = (np.array(column) for column in zip(*rows, strict=True))
    names = [field.name for field in fields(Candidates)]
    known = {"image": image, "caption": caption, "score": score, "p_positive": probability}
    return Candidates(**{name: known.get(name, np.zeros(len(rows))) for name in names})


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.2, 0.7])
        ),
        min_size=1,
        max_size=12,
    ),
    cut=st.integers(0, 12),
    known=st.booleans(),
)
def test_merge__the_probability_orders_then_score_image_and_caption(
    rows: list[tuple[int, int, float, float]], cut: int, known: bool
) -> None:
    """Without a calibration there is no probability, and the score orders."""
    rows = [(*row[:3], row[3] if known else float("nan")) for row in rows]
    parts = [_candidates(part) for part in (rows[:cut], rows[cut:]) if part]
    got = merge(parts)
    order = sorted(rows, key=lambda row: (-row[3] if known else 0, -row[2], row[0], row[1]))
    np.testing.assert_array_equal(
        np.stack([got.image, got.caption, got.score, got.p_positive], 1), np.array(order, dtype=float)
    )


def test_find_all__an_image_keeps_the_most_probable_not_those_with_the_largest_score() -> None:
    finder = Finder(np.array([0, 1]), images=None, texts=None, image_content=np.arange(2), caption_content=np.arange(2))
    rows = [(0, 1, 0.9, 0.1), (0, 2, 0.5, 0.8), (0, 3, 0.7, 0.8), (0, 4, 0.1, 0.9)]
    (got,) = find_all(finder, num_images=1, per_image=2, find=lambda image: _candidates(rows))
    assert got.caption.tolist() == [4, 3], "of two with one probability the larger score"


@given(
    pairs=st.lists(st.tuples(*(st.none() | st.floats(-1, 1) for _ in range(2))), min_size=1, max_size=8),
    weights=st.tuples(*(st.sampled_from([0.0, 0.3, 1.0]) for _ in range(2))),
)
def test_weighted_mean__equals_plain_loops(
    pairs: list[tuple[float | None, float | None]], weights: tuple[float, float]
) -> None:
    """What is not there is left out, not counted as 0, also where what is there weighs nothing."""
    expected = []
    for pair in pairs:
        there = [(value, weight) for value, weight in zip(pair, weights, strict=True) if value is not None]
        if there and not any(weight for _, weight in there):
            there = [(value, 1.0) for value, _ in there]
        total = sum(weight for _, weight in there)
        mean = sum(value * weight for value, weight in there) / total if total else 0.0
        expected.append(min(max(mean, 0.0), 1.0))
    columns = [
        np.array([np.nan if value is None else value for value in column]) for column in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(weighted_mean(columns, weights), expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 30), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.2, 0.5, 0.7])
        ),
        min_size=1,
        max_size=14,
        unique_by=lambda row: row[:2],
    ),
    most=st.integers(0, 4),
    known=st.booleans(),
    minimum=st.sampled_from([0.0, 0.5, 0.6]),
)
def test_find_all__each_image_keeps_its_best(
    rows: list[tuple[int, int, float, float]], most: int, known: bool, minimum: float
) -> None:
    """As many as told, by probability where there is one, then by score; those of a smaller score not at all."""
    rows = sorted((*row[:3], row[3] if known else float("nan")) for row in rows)
    finder = Finder(np.array([0, 1]), images=None, texts=None, image_content=np.arange(2), caption_content=np.arange(2))
    (got,) = find_all(finder, num_images=1, per_image=most, minimum_score=minimum, find=lambda image: _candidates(rows))
    kept = []
    for image in range(3):
        here = sorted(
            (row for row in rows if row[0] == image and row[2] >= minimum),
            key=lambda row: (-row[3] if known else 0, -row[2], row[1]),
        )
        kept += here[:most] if most else here
    assert set(zip(got.image.tolist(), got.caption.tolist(), strict=True)) == {row[:2] for row in kept}


def test_blocks__are_whole_images_and_hold_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cusa.pipeline.pairs.candidates.PAIRS_A_BLOCK", 10)
    owner = np.repeat(np.arange(6), [1, 4, 2, 0, 3, 2])
    finder = Finder(owner, images=None, texts=None, image_content=np.arange(6), caption_content=np.arange(12))
    blocks = list(finder.blocks(np.arange(6), everything=True))
    assert [sorted(set(images.tolist())) for images, _ in blocks] == [[0], [1], [2], [3], [4], [5]]
    monkeypatch.setattr("cusa.pipeline.pairs.candidates.PAIRS_A_BLOCK", 21)
    blocks = list(finder.blocks(np.arange(6), everything=True))
    assert [len(images) for images, _ in blocks] == [19, 10, 21, 10], "a block may be just full"
    pairs = [pair for images, captions in blocks for pair in zip(images.tolist(), captions.tolist(), strict=True)]
    assert pairs == [(i, c) for i in range(6) for c in range(12) if owner[c] != i]
    got = finder.find(np.arange(6), everything=True)
    assert list(zip(got.image.tolist(), got.caption.tolist(), strict=True)) == pairs
    assert len(finder.find([]).image) == 0


def test_among__is_the_pair_and_not_its_halves() -> None:
    candidates = _candidates([(0, 5, 0, 0), (1, 0, 0, 0), (1, 5, 0, 0), (2, 3, 0, 0)])
    split: Any = SimpleNamespace(num_captions=6)
    assert among(split, candidates, np.array([1, 2, 0]), np.array([0, 5, 3])).tolist() == [False, True, False, False]
    assert not among(split, candidates, np.array([0]), np.array([-6 + 6])).any()
