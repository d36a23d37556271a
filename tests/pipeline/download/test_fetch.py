"""Fetching one file: whole and right, or not at all, whatever the server does."""

import hashlib
import shutil
import time
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from cusa.errors import DataError
from cusa.pipeline.download import fetch
from tests.pipeline.download.server import BODY, FAST, Server


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


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (BODY, {"Content_Range": "bytes 0-511999/512000"}, "asked for bytes from 200000 on and sent bytes 0-"),
        (BODY[200_100:], {"Content_Range": "bytes 200100-511999/512000"}, "sent bytes 200100-"),
        (BODY[199_900:], {"Content_Range": "bytes 199900-511999/512000"}, "sent bytes 199900-"),
        (BODY[200_000:] + b"!", {"Content_Range": "bytes 200000-512000/512001"}, "had 512000 bytes and now has 512001"),
        (BODY[:312_000], {"Content_Range": "bytes 200000-511999/512000", "ETag": '"2"'}, 'ETag "1" and now has "2"'),
        (BODY[200_000:-9], {"Content_Range": "bytes 200000-511990/512000"}, "sent bytes 200000-511990/512000"),
        (BODY[200_000:-9], {"Content_Range": "bytes 200000-511999/512000"}, "announces 311991 bytes for"),
        (BODY[200_000:], {}, "part of the file as 'no range'"),
        (BODY[200_000:], {"Content_Range": "items 1-2/3"}, "part of the file as 'items 1-2/3'"),
        (BODY[200_000:], {"Content_Range": "bytes 200000-²/512000"}, "part of the file as"),
    ],
)
def test_fetch__a_range_that_was_not_asked_for_is_never_appended(
    server: Server, tmp_path: Path, body: bytes, headers: dict[str, str], words: str
) -> None:
    def ranges(handler: BaseHTTPRequestHandler, n: int) -> None:
        if n == 1:
            server.give(handler, n, cut=200_000)
        elif n == 2:
            fields = {"ETag": '"1"', **headers}
            server.answer(handler, 206, body, **fields)
        else:
            server.give(handler, n)

    server.behaviour["/plain.bin"] = ranges
    once = FAST.model_copy(update={"retries": 0})
    with pytest.raises(fetch.FetchError, match="cut after 200000"):
        _get(server, tmp_path / "a.bin", "/plain.bin", config=once)
    with pytest.raises(fetch.FetchError) as caught:
        _get(server, tmp_path / "a.bin", "/plain.bin", config=once)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert server.ranges == ["", "bytes=200000-", ""]
    assert _alone(tmp_path / "a.bin")


def test_fetch__a_cut_range_goes_on_from_its_own_cut(server: Server, tmp_path: Path) -> None:
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, cut=150_000 if n < 4 else None)
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert server.ranges == ["", "bytes=150000-", "bytes=300000-", "bytes=450000-"]
    assert _alone(tmp_path / "a.bin")


def _cut_then_rest(server: Server, sent: list[str], **headers: str) -> Callable[[BaseHTTPRequestHandler, int], None]:
    def give(handler: BaseHTTPRequestHandler, n: int) -> None:
        sent.append(handler.headers.get("If-Range", ""))
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(BODY) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        handler.end_headers()
        handler.wfile.write(BODY[start : 1000 if n == 1 else None])
        handler.close_connection = True

    return give


DATE = "Mon, 02 Jan 2023 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"strong"', "Last_Modified": DATE}, '"strong"'),
        ({"ETag": 'W/"weak"', "Last_Modified": DATE}, DATE),
        ({"Last_Modified": DATE}, DATE),
    ],
)
def test_fetch__only_a_strong_etag_or_a_date_goes_into_if_range(
    server: Server, tmp_path: Path, headers: dict[str, str], validator: str
) -> None:
    sent: list[str] = []
    server.behaviour["/plain.bin"] = _cut_then_rest(server, sent, **headers)
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert (sent, server.ranges) == (["", validator], ["", "bytes=1000-"])
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_fetch__without_a_validator_only_a_digest_lets_it_go_on(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    sent: list[str] = []
    server.behaviour["/plain.bin"] = _cut_then_rest(server, sent, **headers)
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert server.ranges == ["", ""]
    assert _alone(tmp_path / "a.bin")
    server.behaviour["/other.bin"] = _cut_then_rest(server, sent, **headers)
    _get(server, tmp_path / "other.bin", "/other.bin", sha256=hashlib.sha256(BODY).hexdigest())
    assert server.ranges[2:] == ["", "bytes=1000-"]
    assert set(sent) == {""}


def test_fetch__a_note_never_speaks_of_another_files_bytes(server: Server, tmp_path: Path) -> None:
    """Killed between the new file's note and its first byte: the old file's bytes must be gone by then."""
    path = tmp_path / "a.bin"
    part, _ = fetch.leftovers(path)
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, cut=1000 if n == 1 else None)
    with pytest.raises(fetch.FetchError, match="cut after"):
        _get(server, path, "/plain.bin", config=FAST.model_copy(update={"retries": 0}))
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, etag='"2"')
    seen: list[bool] = []

    def write(note: Path, fields: Any) -> None:
        seen.append(part.exists())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetch.store, "write_json", write)
        _get(server, path, "/plain.bin")
    assert seen == [False]


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (200, {"Content_Encoding": "gzip"}, b"\x1f\x8b", "compressed (Content-Encoding: gzip)"),
        (200, {"Content_Encoding": "br"}, b"abc", "compressed (Content-Encoding: br)"),
        (200, {"Content_Length": "-5"}, b"abc", "announces Content-Length -5, no number"),
        (200, {"Content_Length": "²"}, b"abc", "announces Content-Length"),
        (200, {"Content_Length": "9" * 5000}, b"abc", "announces Content-Length 999"),
        (200, {}, b"", "an empty file"),
        (204, {}, b"", "HTTP 204"),
        (203, {}, b"abc", "HTTP 203"),
        (206, {"Content_Range": "bytes 5-7/8"}, b"abc", "asked for bytes from 0 on and sent bytes 5-7/8"),
        (200, {}, b"\n<!DOCTYPE html><title>Sign in</title>", "a web page (HTML)"),
        (200, {"Content_Type": "application/xhtml+xml"}, b"<page/>", "a web page (HTML)"),
        (200, {}, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    ],
)
def test_fetch__what_is_no_file_is_refused_by_name(
    server: Server, tmp_path: Path, status: int, headers: dict[str, str], body: bytes, words: str
) -> None:
    def behave(handler: BaseHTTPRequestHandler, n: int) -> None:
        server.answer(handler, status, body, **headers)
        handler.close_connection = True

    server.behaviour["/x.bin"] = behave
    with pytest.raises(fetch.FetchError) as caught:
        _get(server, tmp_path / "a.bin", "/x.bin")
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_fetch__a_gz_file_that_the_server_labels_as_gzip_is_the_file(server: Server, tmp_path: Path) -> None:
    body = b"\x1f\x8bdata"
    server.behaviour["/x.tgz"] = lambda handler, n: server.answer(handler, 200, body, Content_Encoding="x-gzip")
    _get(server, tmp_path / "x.tgz", "/x.tgz")
    assert (tmp_path / "x.tgz").read_bytes() == body


def test_fetch__a_length_that_nobody_says_needs_a_digest(server: Server, tmp_path: Path) -> None:
    def until_closed(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)
        handler.close_connection = True

    def chunked(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n" * (n > 1))
        handler.close_connection = True

    server.behaviour["/closed.bin"] = until_closed
    with pytest.raises(fetch.FetchError, match="a cut would go unseen; give its bytes or sha256"):
        _get(server, tmp_path / "a.bin", "/closed.bin")
    assert not list(tmp_path.iterdir())
    _get(server, tmp_path / "a.bin", "/closed.bin", md5=hashlib.md5(BODY).hexdigest())
    assert _alone(tmp_path / "a.bin")
    (tmp_path / "a.bin").unlink()
    server.behaviour["/chunked.bin"] = chunked
    _get(server, tmp_path / "a.bin", "/chunked.bin")
    assert server.asked["/chunked.bin"] == 2, "the first had no last chunk"
    assert _alone(tmp_path / "a.bin")


def test_fetch__a_server_that_drips_is_left(server: Server, tmp_path: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        while not server.released.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    server.behaviour["/drip.bin"] = drip
    config = FAST.model_copy(update={"retries": 0, "timeout": 0.3, "min_speed": 1000.0})
    with pytest.raises(fetch.FetchError, match=r"bytes in 0 seconds; min_speed is 1000 bytes a second"):
        _get(server, tmp_path / "a.bin", "/drip.bin", config=config)
    _get(server, tmp_path / "b.bin", "/plain.bin", config=config)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("9999", 120.0),
        ("²", 0.0),
        ("٣", 0.0),
        ("-3", 0.0),
        ("9" * 5000, 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 120.0),
        ("Fri, 31 Dec 2199 23:59:59", 120.0),
    ],
)
def test_retry_after__is_seconds_or_a_date_or_nothing(
    server: Server, tmp_path: Path, text: str, seconds: float
) -> None:
    waits: list[float] = []
    server.behaviour["/plain.bin"] = lambda handler, n: (
        server.answer(handler, 503, Retry_After=text.encode().decode("latin-1")) if n == 1 else server.give(handler, n)
    )
    url = (server.root + "/plain.bin",)
    fetch.fetch(tmp_path / "a.bin", url, expected=fetch.Expected(), config=FAST, sleep=waits.append)
    assert waits == [seconds]


def test_redirects__never_from_https_to_http() -> None:
    def redirect(address: str, to: str) -> Any:
        return fetch._Redirects().redirect_request(Request(address), None, 302, "", Message(), to)

    with pytest.raises(fetch.FetchError, match="from https to 'http://b/x'"):
        redirect("https://a/x", "http://b/x")
    with pytest.raises(fetch.FetchError, match="no web address"):
        redirect("https://a/x", "ftp://b/x")
    for address, to in (("https://a/x", "https://b/x"), ("http://a/x", "https://b/x"), ("http://a/x", "http://b/x")):
        assert redirect(address, to).full_url == to


@pytest.mark.parametrize(
    ("status", "times"),
    [
        *((status, 4) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((status, 1) for status in (400, 401, 410, 501)),
    ],
)
def test_fetch__which_answers_another_try_may_help(server: Server, tmp_path: Path, status: int, times: int) -> None:
    server.behaviour["/plain.bin"] = lambda handler, n: server.answer(handler, status)
    with pytest.raises(fetch.FetchError, match=rf"HTTP {status} .*\(tried {times} times\)"):
        _get(server, tmp_path / "a.bin", "/plain.bin")
    assert server.asked["/plain.bin"] == times


def test_fetch__waits_twice_as_long_each_time_half_of_it_by_chance(server: Server, tmp_path: Path) -> None:
    waits: list[float] = []
    server.behaviour["/plain.bin"] = lambda handler, n: server.answer(handler, 500)
    config = FAST.model_copy(update={"first_wait": 1.0, "retries": 9})
    url = (server.root + "/plain.bin",)
    with pytest.raises(fetch.FetchError):
        fetch.fetch(tmp_path / "a.bin", url, expected=fetch.Expected(), config=config, sleep=waits.append)
    wholes = [min(2.0**number, 120.0) for number in range(9)]
    assert all(whole / 2 <= wait <= whole for wait, whole in zip(waits, wholes, strict=True))
    assert len({wait / whole for wait, whole in zip(waits, wholes, strict=True)}) > 1, "not all at the same moment"


def test_fetch__what_one_server_was_cut_at_another_begins_anew(server: Server, tmp_path: Path) -> None:
    """Each has the same validator, and neither the bytes of the other."""
    server.files["/old.bin"], server.files["/new.bin"] = BODY[::-1], BODY
    server.behaviour["/old.bin"] = lambda handler, n: server.give(handler, n, cut=1000)
    config = FAST.model_copy(update={"retries": 0})
    got = _get(server, tmp_path / "a.bin", "/old.bin", "/new.bin", config=config)
    assert (got.url, got.sha256) == (f"{server.root}/new.bin", hashlib.sha256(BODY).hexdigest())
    assert server.ranges == ["", ""]
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize(("expected", "total"), [({}, len(BODY)), ({"bytes": len(BODY)}, len(BODY))])
def test_fetch__says_how_far_it_is_of_how_much(server: Server, tmp_path: Path, expected: Any, total: int) -> None:
    told: list[tuple[int, int | None]] = []
    url = (server.root + "/plain.bin",)
    more = {"expected": fetch.Expected(**expected), "config": FAST}
    fetch.fetch(tmp_path / "a.bin", url, on_bytes=lambda *event: told.append(event), **more)
    assert told[-1] == (len(BODY), total)
    assert {event[1] for event in told} == {total}
    assert [event[0] for event in told] == sorted(event[0] for event in told)


def test_fetch__no_room_for_the_rest_is_said_before_it_comes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour["/plain.bin"] = lambda handler, n: server.give(handler, n, cut=200_000 if n == 1 else None)
    once = FAST.model_copy(update={"retries": 0})
    with pytest.raises(fetch.FetchError, match="cut after 200000"):
        _get(server, tmp_path / "a.bin", "/plain.bin", config=once)
    usage = shutil.disk_usage(tmp_path)
    rest = len(BODY) - 200_000
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=rest - 1))
    with pytest.raises(DataError, match=r"a\.bin needs 0 MiB more and 0 MiB are free\. Free some space"):
        _get(server, tmp_path / "a.bin", "/plain.bin", config=once)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=rest))
    _get(server, tmp_path / "a.bin", "/plain.bin", config=once)
    assert server.ranges == ["", "bytes=200000-", "bytes=200000-"]
    assert _alone(tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["page.html", "page.htm"])
def test_fetch__a_page_that_was_asked_for_is_the_file(server: Server, tmp_path: Path, name: str) -> None:
    body = b"<!doctype html><p>data</p>"
    server.behaviour["/x"] = lambda handler, n: server.answer(handler, 200, body, Content_Type="text/html")
    _get(server, tmp_path / name, "/x")
    assert (tmp_path / name).read_bytes() == body


def test_fetch__a_file_that_is_known_by_its_digest_may_be_anything(server: Server, tmp_path: Path) -> None:
    for number, body in enumerate((b"", b"<html>data", b"version https://git-lfs.github.com/spec/v1")):
        server.behaviour["/x"] = lambda handler, n, body=body: server.answer(handler, 200, body)  # type: ignore[misc]
        _get(server, tmp_path / f"{number}.bin", "/x", sha256=hashlib.sha256(body).hexdigest())
        assert (tmp_path / f"{number}.bin").read_bytes() == body
    server.behaviour["/x"] = lambda handler, n: server.answer(handler, 200, b"")
    _get(server, tmp_path / "empty.bin", "/x", bytes=0)
    assert (tmp_path / "empty.bin").read_bytes() == b""


def test_fetch__what_a_server_is_asked_with(server: Server, tmp_path: Path) -> None:
    told: list[dict[str, str]] = []

    def note(handler: BaseHTTPRequestHandler, n: int) -> None:
        told.append({name.lower(): value for name, value in handler.headers.items()})
        server.give(handler, n)

    server.behaviour["/plain.bin"] = note
    _get(server, tmp_path / "a.bin", "/plain.bin")
    assert (told[0]["user-agent"], told[0]["accept-encoding"]) == ("cusa", "identity")
    assert not {"range", "if-range"} & told[0].keys()
    for address in ("ftp://a/b", "file:///etc/passwd", "a/b"):
        with pytest.raises(fetch.FetchError, match=r"is no http or https address \(tried 1 times\)"):
            fetch.fetch(tmp_path / "b.bin", (address,), expected=fetch.Expected(), config=FAST)


def test_pace__each_stretch_of_time_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(fetch.time, "monotonic", lambda: now)
    pace = fetch._Pace(FAST.model_copy(update={"timeout": 10.0, "min_speed": 100.0}))
    now = 9.9
    pace.check(0)
    now = 10.0
    pace.check(1000)  # just enough
    now = 11.0
    pace.check(9_000)
    now = 22.0
    pace.check(0)  # nothing in ten seconds, but much before
    now = 31.9
    pace.check(999)
    now = 32.0
    with pytest.raises(
        fetch.FetchError, match=r"sent 999 bytes in 10 seconds; min_speed is 100 bytes a second"
    ) as caught:
        pace.check(0)
    assert caught.value.again
