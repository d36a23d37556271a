"""Tar headers of our own, against those of the standard library."""

import hashlib
import io
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.pipeline.shard import ustar

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,80}\.(jpg|png|webp|npy|json)", fullmatch=True)


@given(name=NAMES, size=st.integers(0, 8**11 - 1))
def test_header__is_what_tarfile_writes_and_reads(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    made = ustar.header(name, size)
    assert made == info.tobuf(tarfile.USTAR_FORMAT)
    read = tarfile.TarInfo.frombuf(made, "utf-8", "strict")
    assert (read.name, read.size, read.mtime, read.uid, read.isreg()) == (name, size, 0, 0, True)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 150])
def test_header__names_around_the_hundred_bytes_of_the_field(length: int) -> None:
    name = "d" * min(64, length - 2) + "/" + "n" * (length - min(64, length - 2) - 1) if length > 2 else "n"
    assert len(name) == length
    info = tarfile.TarInfo(name)
    info.size, info.mode = 7, 0o644
    made = ustar.header(name, 7)
    assert made == info.tobuf(tarfile.USTAR_FORMAT)
    assert made[345] == (0 if length <= 100 else ord("d")), "the prefix is used for what does not fit, and only then"


@pytest.mark.parametrize(("folder", "name"), [(120, 50), (155, 100), (64, 100), (99, 1)])
def test_header__a_long_folder_goes_into_the_prefix(folder: int, name: int) -> None:
    whole = "d" * folder + "/" + "n" * name
    info = tarfile.TarInfo(whole)
    info.size, info.mode = 7, 0o644
    assert ustar.header(whole, 7) == info.tobuf(tarfile.USTAR_FORMAT)


class Lazy(io.BytesIO):
    """A file that takes a thousand bytes at most, as an operating system may."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data[:1000]))


@pytest.mark.parametrize("at_once", [1 << 20, 600, 1])
@pytest.mark.parametrize("sizes", [[], [0], [512, 511, 513], [9216 - 1024], [8192, 0, 3], [30_000, 5]])
def test_archive__is_byte_for_byte_what_tarfile_writes(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], at_once: int
) -> None:
    monkeypatch.setattr(ustar, "_AT_ONCE", at_once)
    members = {f"d/{number}.jpg": bytes([65 + number]) * size for number, size in enumerate(sizes)}
    theirs, ours = io.BytesIO(), Lazy()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    made = ustar.Archive(ours)
    offsets = {name: made.add(name, data) for name, data in members.items()}
    made.end()
    whole = ours.getvalue()
    assert whole == theirs.getvalue()
    assert {name: whole[at : at + len(members[name])] for name, at in offsets.items()} == members
    assert (made.bytes, made.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
