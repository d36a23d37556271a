"""Downloads from a server on this machine that cuts, lies, stalls, loops and regrets."""

import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import datasets
from cusa.manifests.datasets import Dataset
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import download
from cusa.pipeline.config import DownloadConfig
from cusa.pipeline.download import fetch
from cusa.pipeline.readers import READERS

BODY = bytes(range(256)) * 2000  # 512 kB
FAST = DownloadConfig(first_wait=0.0, timeout=0.5, retries=3)


class Server:
    """What the test server does is a function of the path and of how often it was asked for."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.ranges: list[str] = []
        self.files: dict[str, bytes] = {"/plain.bin": BODY}
        self.behaviour: dict[str, Callable[[BaseHTTPRequestHandler, int], None]] = {}
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked[self.path] += 1
                outer.ranges.append(self.headers.get("Range", ""))
                behave = outer.behaviour.get(self.path, outer.give)
                try:
                    behave(self, outer.asked[self.path])
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self.http.server_address[1]}"

    def give(self, handler: BaseHTTPRequestHandler, time_: int, *, cut: int | None = None, etag: str = '"1"') -> None:
        data, status, start = self.files[handler.path], 200, 0
        wanted = handler.headers.get("Range", "")
        if wanted.startswith("bytes=") and handler.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(data) else 416
        handler.send_response(status)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", "0" if status == 416 else str(len(data) - start))
        handler.end_headers()
        if status == 416:
            return
        handler.wfile.write(data[start : None if cut is None else start + cut])
        if cut is not None:
            handler.close_connection = True

    def answer(self, handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def _get(server: Server, path: Path, *names: str, **expected: Any) -> fetch.Fetched:
    config = expected.pop("config", FAST)
    urls = tuple(server.root + name for name in names)
    got = fetch.fetch(path, urls, expected=fetch.Expected(**expected), config=config, sleep=lambda seconds: None)
    assert fetch.came_from(path) == got.url
    fetch.forget(path)
    return got


def _alone(path: Path) -> bool:
    return path.read_bytes() == BODY and [p.name for p in path.parent.iterdir()] == [path.name]


def test_fetch__a_whole_file_and_its_digest(server: Server, tmp_path: Path) -> None:
    received: list[int] = []
    path = tmp_path / "plain.bin"
    got = fetch.fetch(
        path,
        (server.root + "/plain.bin",),
        expected=fetch.Expected(md5=hashlib.md5(BODY).hexdigest()),
        config=FAST,
        on_bytes=lambda done, total: received.append(done),
    )
    fetch.forget(path)
    assert (got.bytes, got.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert _alone(path)
    assert received[-1] == len(BODY)


def test_fetch__a_cut_connection_goes_on_from_the_cut(server: Server, tmp_path: Path) -> None:
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, cut=200_000 if n < 3 else None)
    got = _get(server, tmp_path / "a.bin", "/plain.bin")
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert server.ranges == ["", "bytes=200000-", "bytes=400000-"]
    assert _alone(tmp_path / "a.bin")


def test_fetch__another_process_goes_on_where_a_killed_one_was(server: Server, tmp_path: Path) -> None:
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, cut=300_000 if n == 1 else None)
    with pytest.raises(fetch.FetchError, match="cut after 300000 of 512000"):
        _get(server, tmp_path / "a.bin", "/plain.bin", config=FAST.model_copy(update={"retries": 0}))
    assert not (tmp_path / "a.bin").exists()
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert server.ranges == ["", "bytes=300000-"]
    assert _alone(tmp_path / "a.bin")


def test_fetch__a_file_that_changed_meanwhile_is_begun_again(server: Server, tmp_path: Path) -> None:
    def changes(handler: BaseHTTPRequestHandler, n: int) -> None:
        server.files["/plain.bin"] = b"old" * 100_000 if n == 1 else BODY
        server.give(handler, n, cut=1000 if n == 1 else None, etag=f'"{min(n, 2)}"')

    server.behaviour["/plain.bin"] = changes
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert _alone(tmp_path / "a.bin")


def test_fetch__a_server_without_ranges_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    def whole(handler: BaseHTTPRequestHandler, n: int) -> None:
        server.answer(handler, 200, BODY[: 1000 if n == 1 else None], Content_Length=str(len(BODY)))
        handler.close_connection = True

    server.behaviour["/plain.bin"] = whole
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_fetch__busy_servers_are_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    waits: list[float] = []
    server.behaviour["/plain.bin"] = lambda handler, n: (
        server.answer(handler, status, Retry_After="7") if n < 3 else server.give(handler, n)
    )
    url = (server.root + "/plain.bin",)
    fetch.fetch(tmp_path / "a.bin", url, expected=fetch.Expected(), config=FAST, sleep=waits.append)
    fetch.forget(tmp_path / "a.bin")
    assert waits == [7.0, 7.0]
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("status", "headers", "body", "words", "times"),
    [
        (404, {}, b"", "HTTP 404", 1),
        (403, {}, b"", "HTTP 403", 1),
        (500, {}, b"", "HTTP 500", 4),
        (200, {"Content_Type": "text/html; charset=utf-8"}, b"<html>log in</html>", "web page", 1),
        (302, {"Location": "file:///etc/passwd"}, b"", "no web address|not allowed|HTTP 302", 1),
        (302, {"Location": "/loop.bin"}, b"", "redirect|HTTP 302", 1),
    ],
)
def test_fetch__answers_that_are_no_file(
    server: Server, tmp_path: Path, status: int, headers: dict[str, str], body: bytes, words: str, times: int
) -> None:
    server.behaviour["/loop.bin"] = lambda handler, n: server.answer(handler, status, body, **headers)
    with pytest.raises(fetch.FetchError, match=words) as caught:
        _get(server, tmp_path / "a.bin", "/loop.bin")
    assert f"tried {times} times" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_fetch__a_stalled_server_is_left_and_the_mirror_asked(server: Server, tmp_path: Path) -> None:
    def stall(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY[:1000])
        handler.wfile.flush()
        server.released.wait(10)
        handler.close_connection = True

    server.behaviour["/stall.bin"] = stall
    start = time.monotonic()
    config = FAST.model_copy(update={"retries": 1, "timeout": 0.3})
    got = _get(server, tmp_path / "a.bin", "/stall.bin", "/plain.bin", config=config)
    assert got.url.endswith("/plain.bin")
    assert time.monotonic() - start < 8, "the stalled try was given up long before the server let go"
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"bytes": 5}, "announces 512000 bytes, 5 are expected"),
        ({"sha256": "0" * 64}, "another one: sha256"),
        ({"md5": "0" * 32}, "another one: md5"),
    ],
)
def test_fetch__another_file_than_expected_is_never_kept(
    server: Server, tmp_path: Path, expected: dict[str, Any], words: str
) -> None:
    with pytest.raises(fetch.FetchError, match=words):
        _get(server, tmp_path / "a.bin", "/plain.bin", **expected)
    assert not list(tmp_path.iterdir())


def test_fetch__a_server_that_sends_more_than_it_says_or_less(server: Server, tmp_path: Path) -> None:
    def no_length(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY + b"more")
        handler.close_connection = True

    server.behaviour["/plain.bin"] = no_length
    with pytest.raises(fetch.FetchError, match="another one: bytes"):
        _get(server, tmp_path / "a.bin", "/plain.bin", bytes=len(BODY))
    server.behaviour["/plain.bin"] = lambda handler, n: (
        server.answer(handler, 200, BODY[:-10], Content_Length=str(len(BODY))),
        setattr(handler, "close_connection", True),
    )[0]
    with pytest.raises(fetch.FetchError, match="cut after 511990 of 512000"):
        _get(server, tmp_path / "a.bin", "/plain.bin")
    assert not (tmp_path / "a.bin").exists()


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tgz(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _manifest(server: Server, **more: Any) -> Dataset:
    files = [
        {"path": "images.zip", "urls": [f"{server.root}/images.zip"], "unpack": "."},
        {"path": "notes.tgz", "urls": [f"{server.root}/gone.tgz", f"{server.root}/notes.tgz"], "unpack": "deep"},
        {"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]},
    ]
    server.files["/images.zip"] = _zip({"pictures/a.jpg": b"A" * 5000, "pictures/b.jpg": b"B" * 7000})
    server.files["/notes.tgz"] = _tgz({"x/notes.txt": b"notes"})
    server.behaviour["/gone.tgz"] = lambda handler, n: server.answer(handler, 404)
    fields = {
        "name": "mini",
        "title": "Mini",
        "licence": "free",
        "reader": "folder",
        "source": "pictures",
        "files": files,
    }
    return Dataset.model_validate(fields | more)


def _run(manifest: Dataset, out: Path, **more: Any) -> Outcome:
    return download.run(FAST, dataset=manifest, out=out, **more)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_run__everything_comes_checked_and_unpacked_with_a_row_each(server: Server, tmp_path: Path) -> None:
    manifest = _manifest(server)
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
    manifest = _manifest(server)
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
        _run(_manifest(server, files=files), tmp_path / "four", lock=lock)


def test_run__failures_are_rows_and_are_tried_again_alone(server: Server, tmp_path: Path) -> None:
    manifest = _manifest(server)
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
    manifest = _manifest(server, files=[form])
    with pytest.raises(DataError, match=r"form\.zip \(by-hand\): Fill in the form"):
        _run(manifest, tmp_path / "raw")
    (tmp_path / "raw/form.zip").write_bytes(_zip({"a.txt": b"a"}))
    assert _run(manifest, tmp_path / "raw").counts["unpacked"] == 1
    other = _manifest(server, files=[{**form, "sha256": "1" * 64}])
    (tmp_path / "raw/lock.json").unlink()
    with pytest.raises(DataError, match=r"form\.zip \(failed\): another file"):
        _run(other, tmp_path / "raw")


def test_run__too_little_space_is_said_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs about 2000000 GB more"):
        _run(_manifest(server, gigabytes=1e6), tmp_path / "raw")
    assert not server.asked


def test_run__a_broken_archive_is_named(server: Server, tmp_path: Path) -> None:
    manifest = _manifest(server)
    server.files["/images.zip"] = server.files["/images.zip"][:-40]
    with pytest.raises(DataError, match=r"images\.zip \(failed\).*cannot be unpacked"):
        _run(manifest, tmp_path / "raw")
    assert not (tmp_path / "raw/pictures").exists()


@pytest.mark.parametrize("name", datasets.names())
def test_manifests__are_valid_and_name_a_reader(name: str) -> None:
    manifest = datasets.load(name)
    assert manifest.name == name
    assert manifest.licence
    assert manifest.reader in {*READERS, ""}
    assert all(url.startswith(("http://", "https://")) for file in manifest.files for url in file.urls)
    assert len({file.path for file in manifest.files}) == len(manifest.files)


def test_manifests__counts_are_the_documented_ones() -> None:
    counts = {name: {s: c.images for s, c in datasets.load(name).counts.items()} for name in datasets.names()}
    assert counts["coco"] == {"train": 113_287, "val": 5_000, "test": 5_000}
    assert sum(counts["sop"].values()) == 120_053  # type: ignore[arg-type]
    assert sum(counts["in-shop"].values()) == 52_712  # type: ignore[arg-type]
    assert counts["inaturalist-2018"] == {"train": 325_846, "test": 136_093}
    assert counts["cub"] == {"train": 5_864, "test": 5_924}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 1", "no TOML|name"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = '../x', urls = ['http://x']}]", "leaves the folder"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = 'x'}]", "urls or by_hand"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = []\ncolour = 'red'", "colour"),
        ("name = ", "no TOML"),
    ],
)
def test_manifests__an_impossible_one_is_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        datasets.load(str(tmp_path / "m.toml"))
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        datasets.load("cocoo")
