"""Archives from strangers: what is honest comes out, what is not is refused and leaves nothing."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.pipeline.download import unpack as unpacking
from cusa.pipeline.download.unpack import unpack

FILES = {"a/one.txt": b"1", "a/b/two.txt": b"2" * 100_000, "three with spaces.txt": b""}


def _tar(path: Path, members: list[tarfile.TarInfo], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for info in members:
            data = FILES.get(info.name, b"evil")
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)


def _infos() -> list[tarfile.TarInfo]:
    return [tarfile.TarInfo(name) for name in FILES]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_unpack__every_kind_gives_the_same_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("a")
            for name, data in FILES.items():
                archive.writestr(name, data)
    else:
        _tar(path, _infos(), "w:" + kind.removeprefix("tar").removeprefix("."))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/older.txt").write_text("stays")
    files = unpack(path, tmp_path / "out")
    assert {f.relative_to(tmp_path / "out").as_posix(): f.read_bytes() for f in files} == FILES
    assert (tmp_path / "out/older.txt").read_text() == "stays"
    assert not [p for p in (tmp_path / "out").rglob(f"{store.TEMPORARY}*")]


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "a\\..\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpack__a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.txt", "good")
            archive.writestr(name, "evil")
    else:
        _tar(path, [*_infos(), tarfile.TarInfo(name)])
    with pytest.raises(DataError, match="leaves the folder"):
        unpack(path, tmp_path / "deep/out")
    assert {p.name for p in tmp_path.rglob("*")} == {path.name, "deep", "out"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_unpack__links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    evil = tarfile.TarInfo("innocent")
    evil.type, evil.linkname = kind, "/etc/passwd"
    _tar(tmp_path / "x.tar", [*_infos(), evil])
    with pytest.raises(DataError, match="'innocent', a (link|device)"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unpack__a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="'link', a link"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


def test_unpack__bombs_are_refused_by_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_RATIO", 3)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * (8 << 20))
    assert (tmp_path / "x.zip").stat().st_size < 20_000
    with pytest.raises(DataError, match="bomb"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    monkeypatch.setattr(unpacking, "MAX_FILES", 2)
    _tar(tmp_path / "x.tar", _infos())
    with pytest.raises(DataError, match="more than 2 files"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_unpack__a_broken_archive_is_named_wherever_it_breaks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
    else:
        _tar(path, _infos(), "w:gz" if kind == "tar.gz" else "w")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    broken = [b"", b"no archive", whole[: len(whole) // 2]] + ([bytes(flipped)] if kind != "tar" else [])
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"x\.{kind} cannot be unpacked"):
            unpack(path, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "name", [".partial-x", "a/.partial-0/b.txt", ".cusa.lock", "deep/.cusa.lock", "ledger.json", "contents/a.parquet"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpack__a_member_under_a_name_of_ours_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path, out = tmp_path / f"x.{kind}", tmp_path / "out"
    out.mkdir()
    (out / "ledger.json").write_text("ours")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.txt", "good")
            archive.writestr(name, "evil")
    else:
        _tar(path, [*_infos(), tarfile.TarInfo(name)])
    with pytest.raises(DataError, match="a name that is ours. It is refused"):
        unpack(path, out, reserved=[out / "ledger.json", out / "contents"])
    assert [file.name for file in out.rglob("*")] == ["ledger.json"]
    assert (out / "ledger.json").read_text() == "ours"


def test_unpack__of_two_members_of_one_name_the_later_stands(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for data in (b"earlier", b"later"):
            info = tarfile.TarInfo("a.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert unpack(tmp_path / "x.tar", tmp_path / "out") == [tmp_path / "out/a.txt"]
    assert (tmp_path / "out/a.txt").read_bytes() == b"later"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpack__a_colon_is_a_letter_as_any_other(tmp_path: Path, kind: str) -> None:
    names = ["12:30.jpg", "C:/a.txt", ":/b.txt"]
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
    else:
        _tar(path, [tarfile.TarInfo(name) for name in names])
    assert unpack(path, tmp_path / "out") == sorted(tmp_path / "out" / name for name in names)


def test_unpack__as_large_and_as_many_as_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_RATIO", 2)
    monkeypatch.setattr(unpacking, "MAX_FILES", 2)
    for size, allowed in ((2 << 20, True), ((2 << 20) + 1, False)):  # twice the least that an archive counts for
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("deep")
            archive.writestr("deep/one", b"\0" * (size - 5))
            archive.writestr("two", b"12345")
        if allowed:
            assert [file.stat().st_size for file in unpack(tmp_path / "x.zip", tmp_path / "out")] == [size - 5, 5]
        else:
            with pytest.raises(DataError, match="looks like a bomb"):
                unpack(tmp_path / "x.zip", tmp_path / "other")
            assert list((tmp_path / "other").iterdir()) == []


def test_unpack__a_zip_whose_members_say_what_they_are(tmp_path: Path) -> None:
    """As Info-ZIP writes them: the kind of file stands beside its rights."""
    path = tmp_path / "x.zip"
    for kind, said in (
        (stat.S_IFREG, None),
        (stat.S_IFCHR, "device"),
        (stat.S_IFIFO, "device"),
        (stat.S_IFLNK, "link"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, mode in (("deep/", stat.S_IFDIR | 0o755), ("deep/a.txt", kind | 0o644)):
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, b"" if name.endswith("/") else b"a")
        out = tmp_path / f"out-{kind}"
        if said is None:
            assert [file.read_bytes() for file in unpack(path, out)] == [b"a"]
        else:
            with pytest.raises(DataError, match=rf"holds 'deep/a.txt', a {said}\. It is refused"):
                unpack(path, out)


def test_unpack__what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    _tar(tmp_path / "x.tar", _infos())
    for name in ("x.tar", "older.tar"):
        (tmp_path / "out" / f"{store.TEMPORARY}{name}/a").mkdir(parents=True)
        (tmp_path / "out" / f"{store.TEMPORARY}{name}/a/half.txt").write_text("half")
    unpack(tmp_path / "x.tar", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {*FILES}
