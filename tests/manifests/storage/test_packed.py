"""Packed objects: what comes back equals what went in, arrays mapped, damage refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cusa.errors import DataError
from cusa.manifests.storage import packed
from cusa.manifests.storage.paths import place


@dataclass(frozen=True)
class Box:
    rows: np.ndarray
    name: str
    inner: Any = None


CLASSES = (Box,)

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES | hnp.arrays(st.sampled_from([np.float32, np.int64, np.bool_]), hnp.array_shapes(min_side=0)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
        | inner.map(lambda one: Box(np.arange(3), "x", one))
    ),
    max_leaves=6,
)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    if isinstance(one, Box):
        return isinstance(other, Box) and all(_same(getattr(one, name), getattr(other, name)) for name in vars(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=40, deadline=None)
@given(value=VALUES)
def test_read__gives_back_what_was_written(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("packed")
    taken = packed.pack(value, classes=CLASSES, outside={})
    packed.write(folder, taken)
    again, digest = packed.read(folder, classes=CLASSES, outside={})
    assert _same(value, again)
    assert digest == taken.digest == packed.digest_of(folder)


def test_read__large_arrays_are_mapped_once_and_cannot_be_written(tmp_path: Path) -> None:
    rows = np.arange(100_000, dtype=np.float32).reshape(-1, 10)
    packed.write(tmp_path, packed.pack([rows, Box(rows, "a")], classes=CLASSES, outside={}))
    (one, box), _ = packed.read(tmp_path, classes=CLASSES, outside={})
    assert isinstance(one, np.memmap)
    assert box.rows is one, "the same array stays the same"
    assert len(list(tmp_path.glob("*.npy"))) == 1
    with pytest.raises(ValueError, match="read-only"):
        one[0, 0] = 1


def test_pack__what_lies_outside_is_named_and_supplied(tmp_path: Path) -> None:
    words = ["a", "b"]
    packed.write(tmp_path, packed.pack(Box(np.ones(2), "a", words), classes=CLASSES, outside={"words": words}))
    box, _ = packed.read(tmp_path, classes=CLASSES, outside={"words": "others"})
    assert box.inner == "others"


def test_digest__changes_with_a_number_a_shape_and_a_type() -> None:
    rows = np.zeros((2, 3), dtype=np.float32)
    changed = rows.copy()
    changed[1, 2] = 1e-30
    every = [rows, changed, rows.reshape(3, 2), rows.astype(np.float64), rows.view(np.int32)]
    digests = {packed.pack(one, classes=(), outside={}).digest for one in every}
    assert len(digests) == len(every)


def test_pack__other_classes_are_refused() -> None:
    with pytest.raises(TypeError, match="Path"):
        packed.pack([Path()], classes=CLASSES, outside={})


@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "index", "missing"])
def test_read__damage_is_refused(tmp_path: Path, harm: str) -> None:
    rows = [np.arange(50_000, dtype=np.float32), np.arange(50_000, dtype=np.float32)[::-1].copy()]
    packed.write(tmp_path, packed.pack(rows, classes=(), outside={}))
    one, two, index = tmp_path / "array-000.npy", tmp_path / "array-001.npy", tmp_path / packed.INDEX
    data = bytearray(one.read_bytes())
    if harm == "flip":
        data[-100] ^= 1
        one.write_bytes(data)
    elif harm == "cut":
        one.write_bytes(data[:-100])
    elif harm == "swap":
        one.write_bytes(two.read_bytes())
    elif harm == "index":
        index.write_text(index.read_text().replace('"array": 0', '"array": 1'))
    else:
        one.unlink()
    with pytest.raises(DataError, match=r"packed|damaged|not whole|not hold"):
        packed.read(tmp_path, classes=(), outside={})


STRANGE = [
    *(np.float32(0.1), np.int64(7), np.bool_(True), np.zeros(()), np.zeros((0, 3))),
    *(np.arange(6).reshape(2, 3).T, np.arange(9)[::-2], np.asfortranarray(np.ones((3, 2)))),
]


@pytest.mark.parametrize("value", STRANGE)
def test_read__numbers_alone_and_arrays_of_any_order(value: Any, tmp_path: Path) -> None:
    packed.write(tmp_path, packed.pack([value, {"a": value}], classes=(), outside={}))
    (one, two), _ = packed.read(tmp_path, classes=(), outside={})
    for again in (one, two["a"]):
        assert type(again) is type(value)
        assert (again.dtype, again.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(again, value)


def test_read__from_a_store_as_from_here(tmp_path: Path) -> None:
    rows = np.arange(100_000, dtype=np.float32)
    taken = packed.pack([rows, "x", rows[:3]], classes=(), outside={})
    folder = place("memory://packed/one")
    assert packed.digest_of(folder) == ""
    packed.write(folder, taken)
    assert packed.digest_of(folder) == taken.digest
    (one, word, few), digest = packed.read(folder, classes=(), outside={})
    np.testing.assert_array_equal(one, rows)
    np.testing.assert_array_equal(few, rows[:3])
    assert (word, digest) == ("x", taken.digest)


def test_digest__is_of_the_tree_as_well(tmp_path: Path) -> None:
    rows = np.arange(3)
    values = [rows, [rows], (rows,), {"a": rows}, {"b": rows}, Box(rows, "a"), Box(rows, "b"), [rows, 1], [rows, 2]]
    assert len({packed.pack(value, classes=CLASSES, outside={}).digest for value in values}) == len(values)


def test_digest_of__nothing_where_it_was_not_finished_or_changed(tmp_path: Path) -> None:
    assert packed.digest_of(tmp_path) == ""
    taken = packed.pack([1], classes=(), outside={})
    packed.write(tmp_path, taken)
    assert packed.digest_of(tmp_path) == taken.digest
    index = tmp_path / packed.INDEX
    whole = index.read_text()
    for text in (whole.replace(taken.digest, "0" * 64), "[]", "{}"):
        index.write_text(text)
        assert packed.digest_of(tmp_path) == ""
        with pytest.raises(DataError, match="is not whole or was changed"):
            packed.read(tmp_path, classes=(), outside={})
