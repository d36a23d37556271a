"""NumPy files: what numpy wrote comes back, and a header that lies is refused before memory is asked for."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cusa.manifests.storage import arrays

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _lying(shape: str, descr: str = "'<f4'") -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (64 - (10 + len(head) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + bytes(48)


LIES = {
    "petabytes": _lying("(1000000000, 1000000)"),
    "one row more": _lying("(4, 4)"),
    "negative": _lying("(-1, 4)"),
    "numbers of no width": _lying("(1000000000000000,)", "'<U0'"),
    "objects": _lying("(1,)", "'|O'"),
    "no header": b"\x93NUMPY\x01\x00\xff\xff{",
    "nothing": b"",
    "another format": b"PK\x03\x04" + bytes(99),
    "nested": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000,
}


@pytest.mark.parametrize("array", [ROWS, ROWS.T, np.array(["a", "bc"]), np.zeros((0, 4)), np.float64(3)])
def test_load_and_parse__what_numpy_wrote(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(array))
    np.testing.assert_array_equal(arrays.load(tmp_path / "a.npy"), array)
    np.testing.assert_array_equal(arrays.parse(_npy(array)), array)


def test_load__mapped_numbers_stay_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(ROWS))
    mapped = arrays.load(tmp_path / "a.npy", mapped=True)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, ROWS)
    with pytest.raises(ValueError, match="read-only"):  # the file of a teacher's rows, which nobody wants to change
        mapped[0, 0] = 1


@pytest.mark.parametrize("name", LIES)
def test_load_and_parse__a_lie_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.npy").write_bytes(LIES[name])
    words = {"petabytes": "more than its", "one row more": "more than its", "objects": "Object arrays"}.get(name, "it")
    for read in (lambda: arrays.load(tmp_path / "a.npy"), lambda: arrays.parse(LIES[name])):
        with pytest.raises(ValueError, match=words):
            read()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.npy", LIES[name])
    with (tmp_path / "a.npz").open("rb") as file, pytest.raises(ValueError, match=words):
        arrays.Archive(file)["rows"]


def test_archive__what_numpy_wrote(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", ids=np.array(["a", "b"]), rows=np.zeros((500, 400)))
        with (tmp_path / "a.npz").open("rb") as file:
            archive = arrays.Archive(file)
            assert archive.names == ["ids", "rows"]
            assert archive["ids"].tolist() == ["a", "b"]
            np.testing.assert_array_equal(archive["rows"], np.zeros((500, 400)))


def test_archive__a_flipped_byte_or_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, rows=np.random.default_rng(0).random((50, 4)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(ValueError, match="cannot be read"):
        arrays.Archive(file)["rows"]
    with pytest.raises(ValueError, match="no NumPy archive"):
        arrays.Archive(io.BytesIO(b"nothing"))


@pytest.mark.parametrize("array", [ROWS, np.asfortranarray(ROWS), np.arange(3, dtype=">u2"), np.float64(3)])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_read_header__what_the_file_says_and_where_its_numbers_begin(
    array: np.ndarray, version: tuple[int, int]
) -> None:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array), version=version)
    data = out.getvalue()
    file = io.BytesIO(data)
    header = arrays.read_header(file, len(data))
    column_major = array.ndim > 1 and not array.flags.c_contiguous
    assert header == arrays.Header(array.shape, column_major, array.dtype, len(data) - array.nbytes)
    assert file.tell() == header.offset
    np.testing.assert_array_equal(arrays.parse(data), array)
    with pytest.raises(ValueError, match="more than its"):
        arrays.read_header(io.BytesIO(data), len(data) - 1)


def test_read_header__a_format_of_later_is_named() -> None:
    out = io.BytesIO()
    np.lib.format.write_array(out, ROWS, version=(3, 0))
    with pytest.raises(ValueError, match=r"version \(3, 0\) of the format is not read"):
        arrays.parse(out.getvalue())


def test_archive__a_size_that_nothing_packs_into_so_few_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.npy", _lying(f"({1 << 37},)"))
        archive.filelist[0].file_size = 1 << 40  # what the directory at the end will claim
    with path.open("rb") as file, pytest.raises(ValueError, match=rf"the archive claims {1 << 40} bytes for 'rows'"):
        arrays.Archive(file)["rows"]
    np.savez_compressed(path, rows=np.zeros(2_000_000))  # what packs best
    with path.open("rb") as file:
        assert arrays.Archive(file)["rows"].shape == (2_000_000,)
