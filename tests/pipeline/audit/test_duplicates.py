"""Duplicates as connected components, and what leaks between splits."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cusa.manifests import schemas, tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.audit import duplicates
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.index.vectors import unit_rows
from tests.pipeline.audited import teach
from tests.worlds import make_work


def _modality(rows: np.ndarray, k: int) -> Modality:
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Modality(rows, nearest_rows(rows, k))


@settings(deadline=None)
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


def test_groups__equal_content_has_the_similarity_1_whatever_a_teacher_says() -> None:
    """A teacher may give equal content rows that differ a little; without one there is no other similarity."""
    rows = np.array([[1, 0], [1, 0.2], [0, 1], [0.1, 1]], dtype=float)
    content = np.array([0, 0, 1, 2])
    table, _ = duplicates.groups("image", list("abcd"), content, _modality(rows, 3), 0.99)
    told = dict(zip(table["key"].to_pylist(), table["similarity"].to_pylist(), strict=True))
    assert told["a"] == told["b"] == 1.0
    assert told["c"] == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    alone, _ = duplicates.groups("text", list("abcd"), content, None, 0.99)
    assert alone.select(["key", "similarity"]).to_pylist() == [
        {"key": "a", "similarity": 1.0},
        {"key": "b", "similarity": 1.0},
    ]


def test_leak_inputs__are_the_splits_and_their_tables(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train", "val", "test"), captions=1)
    for name in ("train", "val"):
        teach(work, split=name, neighbours=1, image="colours")
    split = Split(work, "train")
    before = duplicates.leak_inputs(split, "colours")
    assert before.keys() == {"split val", "split test"}
    part = work / "val/teachers/colours/00000.parquet"
    table = pq.read_table(part)
    rows = tables.embedding_matrix(table)[:, ::-1]
    turned = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])
    store.write_table(part, table.set_column(table.schema.get_field_index("embedding"), "embedding", turned))
    after = duplicates.leak_inputs(split, "colours")
    assert {name for name in before if before[name] != after[name]} == {"split val"}


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
    # As a loop over both splits finds them: of each image the nearest there, if it is near enough.
    here, there = (
        unit_rows(tables.read_teacher(Split(work, name), "colours")).astype(float) for name in ("test", "train")
    )
    cosines = here @ there.T
    near = np.flatnonzero(cosines.max(1) >= 0.9999)
    expected = {(Split(work, "test").image_keys[row], train.image_keys[cosines[row].argmax()]) for row in near}
    assert {(row["key"], row["other_key"]) for row in images} == expected
    again = audit.run(AuditConfig(neighbours=4, gallery=0, near_image=0.9999), split=Split(work, "test"))
    assert not again.fresh
    teach(work, split="train", text="words")
    audit.run(AuditConfig(neighbours=4, gallery=0, leaks=False), split=Split(work, "test"))
    assert not (work / "test/audit/leaks.parquet").exists()
    assert audit.read_summary(Split(work, "test"))["leaks"] is None


@pytest.mark.parametrize("key", ["revision", "weights_sha256", "preprocessing", "teacher", "transform"])
def test_leaks__cosines_between_two_different_teachers_mean_nothing(tmp_path: Path, key: str) -> None:
    work = make_work(tmp_path, images=6, splits=("train", "test"))
    for split in ("train", "test"):
        teach(work, split=split, image="colours")
    test = Split(work, "test")
    rows = unit_rows(tables.read_teacher(test, "colours"))
    near = Modality(rows, nearest_rows(rows, 4))
    leaked = duplicates.leaks(test, near, "colours", 0.99).to_pylist()
    assert [row for row in leaked if row["modality"] == "image"], "the same teacher sees near images"
    for part in (work / "train/teachers/colours").glob("[0-9]*.parquet"):
        table = pq.read_table(part)
        store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, key.encode(): b"another"}))
    leaked = duplicates.leaks(test, near, "colours", 0.99).to_pylist()
    assert [row for row in leaked if row["modality"] == "image"] == []


def test_leaks__equal_bytes_and_words_need_no_teacher(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4, splits=("train", "test"))
    train, test = Split(work, "train"), Split(work, "test")
    assert duplicates.leaks(test, None, "", 0.9).num_rows == 0
    rows = train.samples.to_pylist()
    rows[2]["sha256"] = test.samples["sha256"][1].as_py()
    store.write_table(train.folder / "samples.parquet", pa.Table.from_pylist(rows, schema=schemas.SAMPLES))
    words = train.captions.to_pylist()
    words[7]["text"] = test.texts[3].upper()  # as the text teacher reads it, the same
    store.write_table(train.folder / "captions.parquet", pa.Table.from_pylist(words, schema=schemas.CAPTIONS))
    assert duplicates.leaks(Split(work, "test"), None, "", 0.9).to_pylist() == [
        {
            "modality": modality,
            "key": key,
            "other_split": "train",
            "other_key": other,
            "similarity": 1.0,
            "exact": True,
        }
        for modality, key, other in (
            ("image", test.image_keys[1], train.image_keys[2]),
            ("text", test.caption_keys[3], train.caption_keys[7]),
        )
    ]
