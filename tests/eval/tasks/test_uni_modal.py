"""Uni-modal retrieval: the query is left out by identity, and the reference's figures where they are well defined."""

from pathlib import Path

import numpy as np
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.metrics import recall_at_k
from cusa.eval.ranking import rank, score_blocks
from cusa.eval.tasks import uni_modal
from cusa.eval.tasks.task import TEXTS_ALONE
from cusa.eval.tasks.uni_modal import (
    labelled,
    rank_within,
    same_label,
    second_nearest_rank1,
    sharing_captions,
    siblings,
)
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.eval.tasks.seeing import see
from tests.worlds import make_work

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


def _split(folder: Path, labels: list[str], roles: list[str] | None = None) -> Split:
    split = Split(make_work(folder, images=len(labels), captions=2, splits=("val",)), "val")
    told = roles or [""] * len(labels)
    rows = [
        {**row, "label": label, "role": role}
        for row, label, role in zip(split.samples.to_pylist(), labels, told, strict=True)
    ]
    store.write_table(split.folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    return Split(split.work, "val")


def _rows(number: int, seed: int = 0) -> np.ndarray:
    return _unit(np.random.default_rng(seed).normal(size=(number, 5))).astype(np.float32)


def _hits(rows: np.ndarray, right: list[set[int]], gallery: list[int], queries: list[int]) -> list[bool]:
    """Return whether the nearest of a gallery is right, for each query that has a right item."""
    found = []
    for query in queries:
        if right[query]:
            nearest = max((row for row in gallery if row != query), key=lambda row: float(rows[query] @ rows[row]))
            found.append(nearest in right[query])
    return found


def test_image_to_image__by_label_among_all_or_of_queries_in_a_gallery(tmp_path: Path) -> None:
    labels = ["a", "b", "a", "c", "b", "a", ""]
    rows = _rows(7)
    of_label = [
        {at for at, other in enumerate(labels) if other and other == own and at != row}
        for row, own in enumerate(labels)
    ]
    split = _split(tmp_path / "all", labels)
    found = uni_modal.image_to_image(see(split, None, uni={"image": rows})).summary
    hits = _hits(rows, of_label, list(range(7)), list(range(7)))
    assert (found["queries"], len(hits)) == (5, 5)
    assert found["metrics"]["r@1"] == pytest.approx(100 * sum(hits) / 5, abs=1e-4)
    assert found["metrics"]["release_r@1"] == pytest.approx(second_nearest_rank1(rows, labels, EvalConfig()), abs=1e-4)
    # Of six others one (b) or two (a) are right.
    assert found["chance"]["r@1"] == pytest.approx(100 * (2 * 1 + 3 * 2) / 6 / 5, abs=1e-3)
    roles = ["query", "query", "gallery", "gallery", "gallery", "gallery", "query"]
    split = _split(tmp_path / "roles", labels, roles)
    result = uni_modal.image_to_image(see(split, None, uni={"image": rows}))
    right = [{at for at in of_label[row] if roles[at] == "gallery"} for row in range(7)]
    hits = _hits(rows, right, [2, 3, 4, 5], [0, 1, 6])
    assert (result.summary["queries"], len(hits)) == (2, 2)
    assert result.summary["metrics"]["r@1"] == pytest.approx(100 * sum(hits) / 2, abs=1e-4)
    assert "release_r@1" not in result.summary["metrics"]
    assert result.summary["chance"]["r@1"] == pytest.approx(100 * (2 / 4 + 1 / 4) / 2, abs=1e-3)
    asked = result.table.to_pylist()
    assert [row["query_key"] for row in asked] == [split.image_keys[row] for row in (0, 1, 6)]
    best = [sorted((2, 3, 4, 5), key=lambda row: -float(rows[query] @ rows[row]))[:3] for query in (0, 1, 6)]
    assert [row["top_keys"] for row in asked] == [[split.image_keys[at] for at in top] for top in best]
    assert {row["task"] for row in asked} == {"uni-modal"}


def test_image_to_image__what_it_cannot_do_is_said(tmp_path: Path) -> None:
    split = _split(tmp_path, ["", "", ""])
    assert uni_modal.image_to_image(see(split, None)).summary == {"unavailable": TEXTS_ALONE}
    found = uni_modal.image_to_image(see(split, None, uni={"image": _rows(3)})).summary
    assert found == {"unavailable": "the split has neither labels nor a truth table"}


def test_text_to_text__siblings_among_all_other_captions(tmp_path: Path) -> None:
    split = _split(tmp_path, ["", "", ""])
    rows = _rows(6, seed=3)
    result = uni_modal.text_to_text(see(split, None, uni={"text": rows}))
    siblings_of = [{row ^ 1} for row in range(6)]
    hits = _hits(rows, siblings_of, list(range(6)), list(range(6)))
    assert result.summary["metrics"]["r@1"] == pytest.approx(100 * sum(hits) / 6, abs=1e-4)
    assert result.summary["chance"]["r@1"] == pytest.approx(20.0)
    assert (result.summary["queries"], result.summary["space"]) == (6, "given rows")
    assert [row["query_key"] for row in result.table.to_pylist()] == split.caption_keys
