"""Uni-modal retrieval: the query is left out by identity, and the reference's figures where they are well defined."""

from pathlib import Path

import numpy as np
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.metrics import recall_at_k
from cusa.eval.ranking import rank, score_blocks
from cusa.eval.tasks import uni_modal
from cusa.eval.tasks.uni_modal import (
    labelled,
    rank_within,
    same_label,
    second_nearest_rank1,
    sharing_captions,
    siblings,
)

CASES = [
    "self",
    "self_duplicates_mixed_label",
    "self_duplicates_same_label",
    "self_exactly_128",
    "self_many_singletons",
    "self_no_l2norm",
]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _nearness(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the negative squared distance, in double precision: what the reference ranks by, without its noise."""
    return -((queries[:, None].astype(np.float64) - gallery[None].astype(np.float64)) ** 2).sum(2)


@pytest.mark.parametrize("case", CASES)
def test_rank_within__lies_in_the_reference_bounds(golden: Path, case: str) -> None:
    stored = np.load(golden / f"04_image_retrieval/{case}.npz", allow_pickle=False)
    rows, labels = stored["query"], stored["query_label"]
    right = same_label(labels.tolist())
    if bool(stored["l2norm"]):
        ranking = rank_within(_unit(rows).astype(np.float32), right, EvalConfig(block=50))
    else:
        ranking = rank([_nearness(rows, rows)], right, exclude=np.arange(len(rows)))
    # The reference's denominator is all queries, also those whose class has no other member.
    found = recall_at_k(ranking.rank, 1)
    exact = [stored["rank1"], stored["rank1"]]
    worst, best = np.sort(stored.get("rank1_bounds", exact))
    if "duplicates" in case:
        # There the reference may take the query's own copy of itself for an answer; we never do.
        assert found <= best + 1e-9
        assert found == pytest.approx(_by_hand(rows, labels, bool(stored["l2norm"])), abs=100 * 2 / len(rows))
    else:
        assert worst - 1e-9 <= found <= best + 1e-9


@pytest.mark.parametrize("case", [case for case in CASES if case != "self_no_l2norm"])
def test_second_nearest_rank1__is_the_release_s_figure(golden: Path, case: str) -> None:
    stored = np.load(golden / f"04_image_retrieval/{case}.npz", allow_pickle=False)
    rows = _unit(stored["query"]).astype(np.float32)
    found = second_nearest_rank1(rows, stored["query_label"].tolist(), EvalConfig(block=50))
    worst, best = np.sort(stored.get("rank1_bounds", [stored["rank1"], stored["rank1"]]))
    assert worst - 1e-9 <= found <= best + 1e-9


def test_labelled__an_empty_label_is_right_for_nobody() -> None:
    found = [rows.tolist() for rows in labelled(["a", "", None, "b", 3], ["b", "a", "", None, "a", 3])]
    assert found == [[1, 4], [], [], [0], [5]]


def _by_hand(rows: np.ndarray, labels: np.ndarray, unit: bool) -> float:
    rows = _unit(rows) if unit else rows
    hits = 0
    for query in range(len(rows)):
        others = [g for g in range(len(rows)) if g != query]
        distance = {g: float(((rows[query].astype(np.float64) - rows[g]) ** 2).sum()) for g in others}
        nearest = min(distance.values())
        hits += all(labels[g] == labels[query] for g in others if distance[g] <= nearest + 1e-12)
    return 100 * hits / len(rows)


@pytest.mark.parametrize("case", ["gallery", "gallery_absent_classes", "gallery_duplicates_mixed_label"])
def test_rank__against_a_gallery_lies_in_the_reference_bounds(golden: Path, case: str) -> None:
    stored = np.load(golden / f"04_image_retrieval/{case}.npz", allow_pickle=False)
    queries, gallery = _unit(stored["query"]), _unit(stored["gallery"])
    right = [np.flatnonzero(stored["gallery_label"] == label) for label in stored["query_label"]]
    ranking = rank(score_blocks(queries, gallery, 64), right)
    worst, best = np.sort(stored["rank1_bounds"])
    assert worst - 1e-9 <= recall_at_k(ranking.rank, 1) <= best + 1e-9


def test_rank_within__a_duplicate_is_an_answer_and_the_query_is_not() -> None:
    rows = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    ranking = rank_within(rows, [np.array([1]), np.array([0]), np.array([3]), np.array([2])], EvalConfig())
    assert ranking.rank.tolist() == [1, 1, 1, 1]
    assert ranking.top[0][0] == 1
    assert ranking.top[1][0] == 0


def test_right_answers__are_what_their_names_say() -> None:
    owner = np.array([0, 0, 1, 2, 2])
    of_image = [np.array([0, 1]), np.array([2]), np.array([3, 4])]
    assert [rows.tolist() for rows in siblings(owner, of_image)] == [[1], [0], [], [4], [3]]
    assert [rows.tolist() for rows in same_label(["a", "b", "a"])] == [[2], [], [0]]
    # No label is no class, but a class may be called 0.
    assert [rows.tolist() for rows in same_label([0, 1, 0])] == [[2], [], [0]]
    assert [rows.tolist() for rows in same_label(["a", "", "a", "", None])] == [[2], [], [0], [], []]
    # Caption 0 of image 0 is true of image 1, and caption 2 of image 1 of image 0; caption 3 of image 2 is true of
    # image 0, but no caption of image 0 is true of image 2.
    of_caption = [np.array([0, 1]), np.array([0]), np.array([0, 1]), np.array([0, 2]), np.array([2])]
    true_of_image = [np.array([0, 1, 2, 3]), np.array([0, 2]), np.array([3, 4])]
    assert [rows.tolist() for rows in sharing_captions(true_of_image, of_caption, owner)] == [[1], [0], []]


def test_second_nearest__a_label_of_0_is_one_and_no_label_is_none() -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    assert uni_modal.second_nearest_rank1(rows, [0, 0, 1, 1], EvalConfig()) == 100
    assert uni_modal.second_nearest_rank1(rows, [0, 0, None, None], EvalConfig()) == 50
    assert uni_modal.second_nearest_rank1(rows, ["0", "0", "", ""], EvalConfig()) == 50
    assert [row.tolist() for row in uni_modal.same_label([0, 0, None, ""])] == [[1], [0], [], []]
    assert [row.tolist() for row in uni_modal.labelled([0, None], [0, None, 0])] == [[0, 2], []]
