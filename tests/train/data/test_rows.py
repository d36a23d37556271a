import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.train.data.rows import Rows, Strings


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_are_those_of_the_array(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    count, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    numbers = data.draw(st.lists(st.integers(0, count - 1), max_size=60))
    array = np.random.default_rng(count).normal(size=(count, width)).astype(np.float16)
    path = tmp_path_factory.mktemp("rows") / "file"
    path.write_bytes(b"head" + array.tobytes())
    rows = Rows(path, np.float16, (width,), offset=4)
    np.testing.assert_array_equal(rows[np.array(numbers, dtype=np.int64)], array[numbers])
    np.testing.assert_array_equal(rows.whole(), array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).row(count - 1), array[-1])
    assert (len(rows), rows.nbytes) == (count, array.nbytes)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(np.arange(100).tobytes())
    rows = Rows(path, np.int64)
    path.write_bytes(path.read_bytes()[:80])
    assert rows.row(9) == 9
    with pytest.raises(DataError, match="become shorter"):
        rows[np.array([3, 9, 10])]


def test_strings__empty_ones_and_any_script(tmp_path: Path) -> None:
    words = ["", "ein Haus", "", "家", "🐈" * 40, ""]
    encoded = [word.encode() for word in words]
    (tmp_path / "text").write_bytes(b"".join(encoded))
    ends = np.cumsum([len(word) for word in encoded]).astype("<i8")
    (tmp_path / "text.ends").write_bytes(ends.tobytes())
    strings = Strings(tmp_path / "text")
    assert [strings[number] for number in range(len(strings))] == words


def test_memory_is_not_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    rows = Rows(path, np.uint8, (1 << 16,))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    for number in range(len(rows)):
        rows.row(number)
    assert resident() - before < 16 << 20, "64 MiB were read"
