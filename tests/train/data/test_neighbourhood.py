import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cusa.errors import DataError, StaleError
from cusa.manifests.samples import Split
from cusa.pipeline import index
from cusa.pipeline.config import IndexConfig
from cusa.train.config import LossConfig
from cusa.train.data import neighbourhood
from cusa.train.data.blocks import Blocks
from cusa.train.data.order import Order
from tests.train.conftest import Train, replace_row


def _graph(images: int, edges: list[tuple[int, int]]) -> sparse.csr_array:
    near = np.zeros((images, images), dtype=np.int32)
    for one, other in edges:
        near[one, other] = near[other, one] = one != other
    return sparse.csr_array(near)


EDGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(EDGES, st.lists(st.integers(0, 4), min_size=12, max_size=12), st.booleans(), st.integers(2, 12))
def test_blocks_hold_every_pair_once(edges: list[tuple[int, int]], captions: list[int], apart: bool, most: int) -> None:
    if not sum(captions):
        return
    owner = np.repeat(np.arange(12), captions)
    made = neighbourhood.blocks(_graph(12, edges), owner, apart=apart, most=most)
    rows = made.at(np.arange(len(owner)), seed=0, epoch=0)
    assert sorted(rows) == list(range(len(owner)))


@settings(max_examples=40, deadline=None)
@given(EDGES, st.integers(2, 9))
def test_shares_equal_plain_loops(edges: list[tuple[int, int]], batch: int) -> None:
    near, owner = _graph(12, edges), np.repeat(np.arange(12), 3)
    dense = near.toarray()
    order = Order(36, batch, 0)
    shares = []
    for step in range(order.steps_per_epoch):
        images = owner[order.rows(step)]
        met = [dense[one, other] for one, other in itertools.permutations(images, 2)]
        shares.append(sum(met) / len(met))
    assert neighbourhood.share_met(order, near, owner) == pytest.approx(np.mean(shares))
    every = [dense[one, other] for one, other in itertools.permutations(owner, 2)]
    assert neighbourhood.share_at_random(near, owner) == pytest.approx(sum(every) / len(every))


def test_groups_are_kept_apart_or_together() -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(50), 8))  # 400 images, 50 groups of 8 that are all near each other
    near = sparse.csr_array((group[:, None] == group[None]) & ~np.eye(400, dtype=bool)).astype(np.int32)
    owner = np.repeat(np.arange(400), 2)
    shares = {}
    for name, blocks in (
        ("random", None),
        ("apart", neighbourhood.blocks(near, owner, apart=True, most=25)),
        ("close", neighbourhood.blocks(near, owner, apart=False, most=32)),
    ):
        shares[name] = neighbourhood.share_met(Order(800, 32, 0, blocks=blocks), near, owner)
    expected = neighbourhood.share_at_random(near, owner)
    assert shares["random"] == pytest.approx(expected, rel=0.2)
    assert shares["apart"] == 0
    assert shares["close"] > 8 * expected


def test_close_batches_show_an_image_once() -> None:
    owner = np.repeat(np.arange(60), 5)
    near = _graph(60, [(one, one + 1) for one in range(0, 60, 2)])
    order = Order(300, 20, 0, blocks=neighbourhood.blocks(near, owner, apart=False, most=20))
    repeats = [20 - len(set(owner[order.rows(step)])) for step in range(order.steps_per_epoch)]
    assert np.mean(repeats) < 3.5  # what a full shuffle has, too: 20 of 300 with 5 an image


def test_apart_batches_change_from_epoch_to_epoch() -> None:
    blocks = Blocks([10] * 10, window=0, apart=True)
    order = Order(100, 10, 0, blocks=blocks)
    first = {tuple(sorted(order.rows(step))) for step in range(10)}
    second = {tuple(sorted(order.rows(step))) for step in range(10, 20)}
    assert not first & second


def test_near_images_equal_a_plain_loop(own_world: Path) -> None:
    split = Split(own_world, "train")
    for teacher in ("colours", "words"):
        index.run(IndexConfig(neighbours=5), split=split, teacher=teacher)
    owner = split.caption_owner
    near = neighbourhood.near_images(
        split, {"image": "colours", "text": "words"}, owner, similarity=0.9, depth=5
    ).toarray()
    expected = np.zeros((12, 12), dtype=np.int32)
    for modality, teacher in (("image", "colours"), ("text", "words")):
        found = neighbourhood.read_neighbours(split, teacher, depth=5)
        for row in range(len(found.ids)):
            for other, similarity in zip(found.ids[row], found.similarities[row], strict=True):
                if similarity >= 0.9:
                    pair = (row, other) if modality == "image" else (owner[row], owner[other])
                    if pair[0] != pair[1]:
                        expected[pair] = expected[pair[::-1]] = 1
    np.testing.assert_array_equal(near, expected)
    assert expected.any()


def test_a_run_measures_what_it_asks_for(own_world: Path, train: Train, tmp_path: Path) -> None:
    told = {"batches": "apart", "neighbour_similarity": 0.95, "steps": 3}
    with pytest.raises(DataError, match="cusa index"):
        train(tmp_path / "none", work=own_world, train=told)
    for teacher in ("colours", "words"):
        index.run(IndexConfig(neighbours=50), split=Split(own_world, "train"), teacher=teacher)
    heard: dict[int, dict[str, float]] = {}

    def hear(step: int, values: dict[str, float]) -> None:
        heard.setdefault(step, {}).update(values)

    apart = train(tmp_path / "apart", work=own_world, train=told, on_metrics=hear)
    assert set(heard[0]) == {"near_in_batch", "near_at_random"}
    assert heard[0]["near_in_batch"] <= heard[0]["near_at_random"]
    heard.clear()
    close = train(tmp_path / "close", work=own_world, train={**told, "batches": "close"}, on_metrics=hear)
    assert heard[0]["near_in_batch"] > heard[0]["near_at_random"]
    assert apart.seen != close.seen


def test_a_run_belongs_to_its_neighbour_tables(own_world: Path, train: Train, tmp_path: Path) -> None:
    plain = LossConfig(alpha=0, beta=0)  # whose run depends on a teacher through its neighbours alone
    options = {"neighbour_similarity": 0.95, "steps": 2}
    for teacher in ("colours", "words"):
        index.run(IndexConfig(neighbours=50), split=Split(own_world, "train"), teacher=teacher)
    train(tmp_path / "run", work=own_world, loss=plain, train=options)
    assert train(tmp_path / "run", work=own_world, loss=plain, train=options).started_at == 2
    replace_row(own_world, "colours")
    index.run(IndexConfig(neighbours=50), split=Split(own_world, "train"), teacher="colours")
    with pytest.raises(StaleError, match="the neighbour tables changed"):
        train(tmp_path / "run", work=own_world, loss=plain, train=options)
