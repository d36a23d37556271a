"""NumPy files, read so that a header that lies costs no memory: its claim is compared with the bytes there are."""

import io
import math
import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DEFLATE = 1032  # times that deflate can shrink anything, at most


class Header(NamedTuple):
    """What a `.npy` file says of itself."""

    shape: tuple[int, ...]
    column_major: bool
    dtype: np.dtype
    offset: int
    """Bytes before the first number."""


def read_header(file: IO[bytes], size: int) -> Header:
    """Read the header of a `.npy` file, and refuse one that the file cannot keep.

    Args:
        file: at its start; afterwards at the first number.
        size: of the file, in bytes.

    Raises:
        ValueError: if it is no such file, holds objects, or claims more numbers than there are bytes.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format is not read")
        shape, column_major, dtype = _HEADERS[version](file)
    except (ValueError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no NumPy file ({str(error).splitlines()[0] if str(error) else 'cut'})") from error
    if dtype.hasobject:
        raise ValueError("Object arrays are not loaded: they may run code")
    count, offset = math.prod(shape), file.tell()
    if min(shape, default=0) < 0 or (count and not dtype.itemsize) or offset + count * dtype.itemsize > size:
        raise ValueError(f"its header claims {dtype} of shape {shape}, more than its {size} bytes can hold")
    return Header(shape, column_major, dtype, offset)


def load(path: Path, *, mapped: bool = False) -> np.ndarray:
    """Read a `.npy` file.

    Args:
        path: the file.
        mapped: whether the numbers stay in the file until they are asked for.

    Raises:
        ValueError: see `read_header`; the message speaks of the file as "it".
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        read_header(file, os.fstat(file.fileno()).st_size)
    array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


def parse(data: bytes) -> np.ndarray:
    """Return the array of a `.npy` file's bytes.

    Raises:
        ValueError: see `read_header`.
    """
    read_header(io.BytesIO(data), len(data))
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array


class Archive:
    """A `.npz` file, open for reading.

    Args:
        file: opened for reading bytes.

    Raises:
        ValueError: if it is no archive.
    """

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(f"it is no NumPy archive ({error})") from error
        self._members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one array.

        Raises:
            ValueError: see `read_header`; also if the archive claims what cannot be packed into so few bytes.
        """
        info = self._members[name]
        if info.file_size > _DEFLATE * info.compress_size + 64:
            raise ValueError(f"the archive claims {info.file_size} bytes for {name!r}, of {info.compress_size}")
        try:
            with self._zip.open(info) as member:
                read_header(member, info.file_size)
            with self._zip.open(info) as member:
                array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ValueError(f"{name!r} in the archive cannot be read ({error})") from error
        return array
