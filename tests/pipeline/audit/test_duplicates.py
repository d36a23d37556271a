"""Duplicates as connected components, and what leaks between splits."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import assume, given
from hypothesis import strategies as st

from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.pipeline import audit
from cusa.pipeline.audit import duplicates
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import Modality
from tests.pipeline.audited import teach
from tests.worlds import make_work


def _modality(rows: np.ndarray, k: int) -> Modality:
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Modality(rows, nearest_rows(rows, k))


@given(st.integers(2, 25), st.integers(0, 1000))
def test_components__as_following_every_edge_finds_them(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    near, content = _modality(rng.normal(size=(number, 3)), 6), rng.integers(0, number, number)
    assume(np.abs(near.rows @ near.rows.T - 0.9).min() > 1e-5)  # rounding decides about others
    labels = duplicates.components(content, near, 0.9)
    reached = [{row} for row in range(number)]
    for _ in range(number):
        for a in range(number):
            for b in range(number):
                close = b in near.near.ids[a] and near.rows[a] @ near.rows[b] >= 0.9
                if close or content[a] == content[b]:
                    both = reached[a] | reached[b]
                    for row in both:
                        reached[row] = both
    expected = [min(group) for group in reached]
    assert [int(np.flatnonzero(labels == label)[0]) for label in labels] == expected


def test_groups__a_row_each_with_its_size_and_whether_it_is_exact() -> None:
    rows = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0.2], [0, 1]], dtype=float)
    table, counts = duplicates.groups("image", list("abcde"), np.array([0, 1, 2, 3, 2]), _modality(rows, 3), 0.99)
    assert table.schema == schemas.DUPLICATE_GROUPS
    assert list(zip(*table.select(["component", "key", "size", "exact"]).to_pydict().values(), strict=True)) == [
        (0, "a", 2, False),
        (0, "b", 2, False),
        (1, "c", 2, True),
        (1, "e", 2, True),
    ]
    assert counts == {"groups": 2, "rows": 4, "exact_groups": 1, "exact_rows": 2}
    exact_only = duplicates.groups("text", list("abc"), np.array([0, 1, 0]), None, 0.9)[0]
    assert exact_only["key"].to_pylist() == ["a", "c"]
    assert duplicates.groups("text", [], np.zeros(0, int), None, 0.9)[1]["rows"] == 0


def test_run__leaks_between_splits_are_written_and_counted(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=6, splits=("train", "test"))
    for split in ("train", "test"):
        teach(work, split=split, image="colours", text="words")
    outcome = audit.run(AuditConfig(neighbours=4, gallery=0, near_image=0.9999), split=Split(work, "test"))
    table = pq.read_table(work / "test/audit/leaks.parquet")
    assert table.schema.remove_metadata() == schemas.LEAKS
    images = [row for row in table.to_pylist() if row["modality"] == "image"]
    assert {row["other_split"] for row in images} == {"train"}
    train = Split(work, "train")
    assert {row["other_key"] for row in images} <= set(train.image_keys)
    assert all(row["similarity"] >= 0.9999 and not row["exact"] for row in images)
    assert any("Leaks: 0 images with the same bytes" in note for note in outcome.notes)
    again = audit.run(AuditConfig(neighbours=4, gallery=0, near_image=0.9999), split=Split(work, "test"))
    assert not again.fresh
    teach(work, split="train", text="words")
    audit.run(AuditConfig(neighbours=4, gallery=0, leaks=False), split=Split(work, "test"))
    assert not (work / "test/audit/leaks.parquet").exists()
    assert audit.read_summary(Split(work, "test"))["leaks"] is None
