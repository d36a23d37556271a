"""Downloads of a manifest: files checked and unpacked with a row each, locks kept to, failures tried again alone."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.datasets import Dataset
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import download
from tests.pipeline.download.server import BODY, FAST, Server, make_manifest, make_zip


def _run(manifest: Dataset, out: Path, **more: Any) -> Outcome:
    return download.run(FAST, dataset=manifest, out=out, **more)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_run__everything_comes_checked_and_unpacked_with_a_row_each(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    outcome = _run(manifest, tmp_path / "raw")
    assert outcome.counts["unpacked"] == 3
    assert (tmp_path / "raw/pictures/b.jpg").read_bytes() == b"B" * 7000
    assert (tmp_path / "raw/deep/x/notes.txt").read_bytes() == b"notes"
    rows = pq.read_table(tmp_path / "raw/sources.parquet").to_pylist()
    assert [(row["path"], row["status"], row["url"].rpartition("/")[2]) for row in rows] == [
        ("images.zip", "there", "images.zip"),
        ("notes.tgz", "there", "notes.tgz"),
        ("plain.bin", "there", "plain.bin"),
    ]
    assert rows[2]["sha256"] == hashlib.sha256(BODY).hexdigest()
    contents = pq.read_table(tmp_path / "raw/contents/images.zip.parquet")
    assert contents.schema.metadata == {b"archive_sha256": rows[0]["sha256"].encode()}
    assert contents.to_pylist() == [
        {"path": f"pictures/{letter.lower()}.jpg", "bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
        for letter, size in (("A", 5000), ("B", 7000))
        for data in [letter.encode() * size]
    ]
    assert [row["path"] for row in pq.read_table(tmp_path / "raw/contents/notes.tgz.parquet").to_pylist()] == [
        "deep/x/notes.txt"
    ]
    asked = server.asked.total()
    assert not _run(manifest, tmp_path / "raw").fresh
    assert server.asked.total() == asked, "up to date asks nobody"
    (tmp_path / "raw/pictures/b.jpg").unlink()
    (tmp_path / "raw/ledger.json").unlink()
    _run(manifest, tmp_path / "raw")
    assert server.asked.total() == asked, "what is there and right is not fetched again"
    assert (tmp_path / "raw/pictures/b.jpg").is_file()
    assert not [p for p in (tmp_path / "raw").rglob(f"{store.TEMPORARY}*")]


def test_run__the_lock_of_another_machine_is_kept_to(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    _run(manifest, tmp_path / "one")
    lock = tmp_path / "one/lock.json"
    _run(manifest, tmp_path / "two", lock=lock)
    assert _files(tmp_path / "two")["lock.json"] == lock.read_bytes()
    server.files["/plain.bin"] = BODY[::-1]
    with pytest.raises(DataError, match=r"plain\.bin \(failed\).*another one: sha256"):
        _run(manifest, tmp_path / "three", lock=lock)
    assert not (tmp_path / "three/plain.bin").exists()
    locked = json.loads(lock.read_text())
    files = [{"path": "plain.bin", "urls": [f"{server.root}/plain.bin"], "sha256": "0" * 64}]
    assert locked["plain.bin"]["sha256"] != "0" * 64
    with pytest.raises(ConfigError, match="lock has sha256"):
        _run(make_manifest(server, files=files), tmp_path / "four", lock=lock)


def test_run__failures_are_rows_and_are_tried_again_alone(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    server.behaviour["/plain.bin"] = lambda handler, n: server.answer(handler, 500)
    with pytest.raises(DataError, match=r"(?s)1 of 3 files.*plain\.bin \(failed\).*HTTP 500") as caught:
        _run(manifest, tmp_path / "raw")
    assert "run the same command again" in str(caught.value)
    rows = pq.read_table(tmp_path / "raw/sources.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["there", "there", "failed"]
    assert "HTTP 500" in rows[2]["error"]
    del server.behaviour["/plain.bin"]
    before = Counter(server.asked)
    _run(manifest, tmp_path / "raw", only_failed=True)
    assert server.asked - before == {"/plain.bin": 1}


def test_run__files_by_hand_are_asked_for_and_then_checked(server: Server, tmp_path: Path) -> None:
    form = {"path": "form.zip", "by_hand": "Fill in the form.", "unpack": ".", "sha256": ""}
    manifest = make_manifest(server, files=[form])
    with pytest.raises(DataError, match=r"form\.zip \(by-hand\): Fill in the form"):
        _run(manifest, tmp_path / "raw")
    (tmp_path / "raw/form.zip").write_bytes(make_zip({"a.txt": b"a"}))
    assert _run(manifest, tmp_path / "raw").counts["unpacked"] == 1
    other = make_manifest(server, files=[{**form, "sha256": "1" * 64}])
    (tmp_path / "raw/lock.json").unlink()
    with pytest.raises(DataError, match=r"form\.zip \(failed\): another file"):
        _run(other, tmp_path / "raw")


def test_run__too_little_space_is_said_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs about 2000000 GB more"):
        _run(make_manifest(server, gigabytes=1e6), tmp_path / "raw")
    assert not server.asked


def test_run__a_broken_archive_is_named(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    server.files["/images.zip"] = server.files["/images.zip"][:-40]
    with pytest.raises(DataError, match=r"images\.zip \(failed\).*cannot be unpacked"):
        _run(manifest, tmp_path / "raw")
    assert not (tmp_path / "raw/pictures").exists()


def test_run__a_file_that_is_there_is_held_to_its_md5(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(BODY).hexdigest()
    manifest = make_manifest(server, files=[{"path": "plain.bin", "by_hand": "Ask for it.", "md5": md5}])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/plain.bin").write_bytes(BODY[::-1])
    with pytest.raises(DataError, match=rf"plain\.bin \(failed\): another file: md5 \w+, expected {md5}"):
        _run(manifest, tmp_path / "raw")
    (tmp_path / "raw/plain.bin").write_bytes(BODY)
    assert _run(manifest, tmp_path / "raw").fresh


def test_run__an_unpacked_file_with_other_bytes_is_unpacked_again(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    _run(manifest, tmp_path / "raw")
    (tmp_path / "raw/pictures/b.jpg").write_bytes(b"C" * 7000)
    (tmp_path / "raw/ledger.json").unlink()
    _run(manifest, tmp_path / "raw")
    assert (tmp_path / "raw/pictures/b.jpg").read_bytes() == b"B" * 7000


def test_run__another_archive_of_the_same_name_is_unpacked_again(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    _run(manifest, tmp_path / "raw")
    server.files["/images.zip"] = make_zip({"pictures/a.jpg": b"Z" * 5000, "pictures/c.jpg": b"C"})
    for name in ("images.zip", "lock.json", "ledger.json"):
        (tmp_path / "raw" / name).unlink()
    assert _run(manifest, tmp_path / "raw").counts["unpacked"] == 3
    assert (tmp_path / "raw/pictures/a.jpg").read_bytes() == b"Z" * 5000
    assert (tmp_path / "raw/pictures/c.jpg").read_bytes() == b"C"
    contents = pq.read_table(tmp_path / "raw/contents/images.zip.parquet")
    assert [row["path"] for row in contents.to_pylist()] == ["pictures/a.jpg", "pictures/c.jpg"]


def test_run__an_archive_does_not_replace_what_the_download_wrote(server: Server, tmp_path: Path) -> None:
    manifest = make_manifest(server)
    server.files["/images.zip"] = make_zip({"pictures/a.jpg": b"A", "lock.json": b"{}"})
    with pytest.raises(DataError, match=r"images\.zip \(failed\).*holds 'lock\.json', a name that is ours"):
        _run(manifest, tmp_path / "raw")
    assert set(json.loads((tmp_path / "raw/lock.json").read_text())) == {"images.zip", "notes.tgz", "plain.bin"}


def _rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(out / "sources.parquet").to_pylist()}


def test_run__only_what_failed_looks_at_what_came_and_at_what_a_person_brought(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    files = [
        {"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]},
        {"path": "other.bin", "urls": [f"{server.root}/other.bin"]},
        {"path": "form.bin", "by_hand": "Ask for it."},
    ]
    server.files["/other.bin"] = BODY[::-1]
    server.behaviour["/other.bin"] = lambda handler, n: server.answer(handler, 404)
    manifest = make_manifest(server, files=files)
    with pytest.raises(DataError, match="2 of 3 files"):
        _run(manifest, out)
    assert {name: row["status"] for name, row in _rows(out).items()} == {
        **{"plain.bin": "there", "other.bin": "failed", "form.bin": "by-hand"},
    }
    del server.behaviour["/other.bin"]
    (out / "form.bin").write_bytes(b"brought")
    before = Counter(server.asked)
    assert _run(manifest, out, only_failed=True, force=True).counts == {
        **{"files": 3, "bytes": 2 * len(BODY) + 7, "unpacked": 0},
    }
    assert server.asked - before == {"/other.bin": 1}
    (out / "plain.bin").write_bytes(b"x" * len(BODY))
    (out / "other.bin").unlink()
    before = Counter(server.asked)
    _run(manifest, out, only_failed=True)
    assert server.asked - before == {"/plain.bin": 1, "/other.bin": 1}, "another file, and one that is gone"
    assert (out / "plain.bin").read_bytes() == BODY
    assert _rows(out)["form.bin"] == {
        **{"path": "form.bin", "url": "", "bytes": 7, "sha256": hashlib.sha256(b"brought").hexdigest()},
        **{"status": "there", "error": ""},
    }
    before = Counter(server.asked)
    _run(manifest, out, force=True)
    assert server.asked - before == {"/plain.bin": 1, "/other.bin": 1}, "all that has an address"


def test_run__what_a_manifest_says_is_held_to_and_another_is_another_download(server: Server, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(BODY).hexdigest()
    file = {"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]}
    for wrong, words in (
        ({"bytes": 5}, "5 are expected"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"md5": "0" * 32}, "md5"),
    ):
        with pytest.raises(DataError, match=rf"plain\.bin \(failed\): .*{words}"):
            _run(make_manifest(server, files=[{**file, **wrong}]), tmp_path / "raw")
        assert not (tmp_path / "raw/plain.bin").exists()
    right = {"bytes": len(BODY), "sha256": sha256, "md5": hashlib.md5(BODY).hexdigest()}
    done = _run(make_manifest(server, files=[{**file, **right}]), tmp_path / "raw")
    assert done.counts == {"files": 1, "bytes": len(BODY), "unpacked": 0}
    assert not _run(make_manifest(server, files=[{**file, **right}]), tmp_path / "raw").fresh
    assert json.loads((tmp_path / "raw/lock.json").read_text()) == {
        "plain.bin": {"bytes": len(BODY), "sha256": sha256, "url": f"{server.root}/plain.bin"}
    }
    again = _run(make_manifest(server, files=[file], title="Other"), tmp_path / "raw")
    assert again.why == "manifest changed"
    (tmp_path / "raw/lock.json").write_text('{"plain.bin": {"bytes": 1}}')
    with pytest.raises(DataError, match=r"lock\.json is no lock: it needs bytes and sha256"):
        _run(make_manifest(server, files=[file]), tmp_path / "raw")


def test_run__what_it_says_at_its_end(server: Server, tmp_path: Path) -> None:
    plain = [{"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]}]
    out = tmp_path / "raw"
    events: list[tuple[str, int, int]] = []
    more = {"images": "img", "note": "Mind the gap."}
    done = _run(make_manifest(server, files=plain, **more), out, on_event=lambda *event: events.append(event))
    assert done.notes == (
        *("Terms: free.", f"Next: cusa shard folder {out / 'pictures'} --images {out / 'img'} --out WORK"),
        "Mind the gap.",
    )
    assert {event[0] for event in events} == {"plain.bin (bytes)"}
    assert events[-1][1:] == (len(BODY), len(BODY))
    for fields, next_ in (
        ({"images": "pictures"}, f"Next: cusa shard folder {out / 'pictures'} --out WORK"),
        ({"images": ""}, f"Next: cusa shard folder {out / 'pictures'} --out WORK"),
    ):
        assert _run(make_manifest(server, files=plain, **fields), out).notes == ("Terms: free.", next_)
    assert _run(make_manifest(server, files=plain, reader="", note=""), out).notes == ("Terms: free.",)


@pytest.mark.parametrize(
    ("gigabytes", "unpacks", "there", "said"), [(6, False, 0, None), (6, True, 0, 12), (6, True, 4, 8)]
)
def test_run__space_for_what_comes_and_for_what_is_unpacked(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: int,
    unpacks: bool,
    there: int,
    said: int | None,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.stage.shutil, "disk_usage", lambda path: usage._replace(free=7 * 10**9))
    file = {"path": "images.zip", "urls": [f"{server.root}/images.zip"], **({"unpack": "."} if unpacks else {})}
    manifest = make_manifest(server, files=[file], gigabytes=gigabytes)
    (tmp_path / "raw").mkdir()
    if there:
        (tmp_path / "raw/images.zip").touch()
        os.truncate(tmp_path / "raw/images.zip", there * 10**9)
    if said is None:
        assert _run(manifest, tmp_path / "raw").fresh
    else:
        with pytest.raises(DataError, match=rf"mini needs about {said} GB more in .* and 7 GB are free"):
            _run(manifest, tmp_path / "raw")


def test_run__a_lock_that_is_given_stands_before_one_s_own(server: Server, tmp_path: Path) -> None:
    """What came here at first is another file than the one that somebody else's lock names."""
    file = {"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]}
    manifest = make_manifest(server, files=[file])
    server.files["/plain.bin"] = BODY[::-1]
    _run(manifest, tmp_path / "raw")
    assert (tmp_path / "raw/plain.bin").read_bytes() == BODY[::-1]
    lock = tmp_path / "theirs.json"
    right = {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest(), "url": "elsewhere"}
    lock.write_text(json.dumps({"plain.bin": right}))
    with pytest.raises(DataError, match=r"plain\.bin \(failed\).*another one: sha256"):
        _run(manifest, tmp_path / "raw", lock=lock)
    server.files["/plain.bin"] = BODY
    assert _run(manifest, tmp_path / "raw", lock=lock).fresh
    assert (tmp_path / "raw/plain.bin").read_bytes() == BODY
    told = json.loads((tmp_path / "raw/lock.json").read_text())["plain.bin"]
    assert told == {**right, "url": f"{server.root}/plain.bin"}


def test_run__what_was_unpacked_whole_is_left_alone_unless_forced(server: Server, tmp_path: Path) -> None:
    manifest, out = make_manifest(server), tmp_path / "raw"
    first = _run(manifest, out)
    (out / "ledger.json").unlink()
    before = (out / "pictures/a.jpg").stat().st_ino
    again = _run(manifest, out)
    assert (again.counts, (out / "pictures/a.jpg").stat().st_ino) == (first.counts, before)
    assert _run(manifest, out, force=True).counts == first.counts
    assert (out / "pictures/a.jpg").stat().st_ino != before
