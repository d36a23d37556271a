"""Addresses and content: what is asked for at all, and what first bytes are."""

import asyncio
import hashlib
import io
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.resolver import ThreadedResolver
from PIL import Image
from yarl import URL

from cusa.pipeline.config import UrlsConfig
from cusa.pipeline.urls import client as client_module
from cusa.pipeline.urls import hosts
from cusa.pipeline.urls.client import Client, Result, parse
from cusa.pipeline.urls.content import what_instead
from cusa.pipeline.urls.failure import Failure
from tests.pipeline.download.server import Server
from tests.pipeline.urls.server import Site, picture, serving


@pytest.mark.parametrize(
    "address", ["", "x", "ftp://a/b", "http://", "http://a:99999/", "http://u:p@a/", "//a/b", "http://[x"]
)
def test_parse__refuses_what_is_no_web_address(address: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(address)
    assert caught.value.reason == "bad-url"


def test_parse__hosts_in_any_script_and_fragments() -> None:
    assert str(parse(" http://b\u00fccher.example/a b.jpg#x ")) == "http://xn--bcher-kva.example/a%20b.jpg"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("10.0.0.1", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("169.254.169.254", False),
        ("[::1]", False),
        ("[::ffff:10.0.0.1]", False),
        ("[2001:4860:4860::8888]", True),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("100.64.0.1", False),
        ("a.name", True),
    ],
)
def test_is_public_literal__however_it_is_written(address: str, public: bool) -> None:
    assert hosts.is_public_literal(URL(f"http://{address}/")) is public


def _fetch(address: str, **settings: Any) -> Result:
    async def go() -> Result:
        config = UrlsConfig(**{"retries": 0, "timeout": 2.0, **settings})
        async with Client(config, per_host=4) as client:
            return await client.fetch(address)

    return asyncio.run(go())


def test_fetch__a_name_that_stands_for_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = socket.AF_INET) -> Any:
        assert host == "xn--bcher-kva.example"
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    with serving() as (port, _):
        address = f"http://b\u00fccher.example:{port}/img/7.jpg"
        assert _fetch(address).reason == "private-address"
        came = _fetch(address, private="listed")
    assert (came.reason, came.data, came.host) == ("", picture(7), "b\u00fccher.example")


def test_fetch__a_host_gets_as_many_requests_at_once_as_allowed() -> None:
    async def go(port: int) -> list[str]:
        async with Client(UrlsConfig(private="listed", connections=64), per_host=3) as client:
            return [one.reason for one in await asyncio.gather(*map(client.fetch, addresses(port)))]

    def addresses(port: int) -> list[str]:
        return [f"http://127.0.0.{1 + number % 2}:{port}/wait/{number}.jpg" for number in range(24)]

    with serving() as (port, _):
        Site.most_at_once = 0
        assert set(asyncio.run(go(port))) == {""}
        assert 3 < Site.most_at_once <= 6


def test_fetch__waits_as_long_as_the_server_asks_or_gives_up() -> None:
    with serving() as (port, asked):
        start = time.monotonic()
        came = _fetch(f"http://127.0.0.1:{port}/later/1.jpg", private="listed", retries=1, first_wait=0.0)
        assert (came.reason, came.tries) == ("", 2)
        assert time.monotonic() - start >= 1.0
        given_up = _fetch(f"http://127.0.0.1:{port}/later/2.jpg", private="listed", retries=1, patience=0.5)
        assert (given_up.reason, given_up.http_status, asked["/later/2.jpg"]) == ("http-status", 429, 1)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (picture(0), None),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), None),
        (b"RIFF\0\0\0\0WEBPVP8 ", None),
        (b"\xff", None),
        (b"\n <!doctype HTML><p>", "web-page"),
        (b"<html lang='en'>....", "web-page"),
        (b"GIF89a" + bytes(20), "unsupported-format"),
        (b"\0\0\0\x1cftypavif" + bytes(9), "unsupported-format"),
        (b"%PDF-1.7 ......", "not-an-image"),
        (b'{"error": "gone"}', "not-an-image"),
    ],
)
def test_what_instead__by_the_first_bytes(start: bytes, reason: str | None) -> None:
    instead = what_instead(start)
    assert (instead and instead[0]) == reason


@pytest.mark.parametrize("address", ["http://anna:secret@host/a.jpg", "http://anna:secret@host:port/a.jpg"])
def test_parse__a_password_is_not_written_down(address: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(address)
    assert caught.value.reason == "bad-url"
    assert "secret" not in str(caught.value.detail)
    assert "host" in str(caught.value.detail)


@pytest.mark.parametrize(
    ("start", "instead"),
    [
        *((b"GIF87a" + bytes(6), "GIF"), (b"BM" + bytes(10), "BMP"), (b"II*\0" + bytes(8), "TIFF")),
        *((b"MM\0*" + bytes(8), "TIFF"), (b"<svg xmlns=''>", "SVG"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")),
        *((b"\0\0\x01\0" + bytes(8), "ICO"), (b"\0\0\0\x1cftypheic", "heic"), (b"\0\0\0\x1cftypavif", "avif")),
    ],
)
def test_what_instead__other_pictures_by_their_names(start: bytes, instead: str) -> None:
    assert what_instead(start) == ("unsupported-format", f"{instead}; JPEG, PNG and WebP are kept")
    assert what_instead(start[:11]) is None, "too little to tell"


@pytest.mark.parametrize(
    ("start", "found"),
    [
        *((b"\xff\xd8\xff", None), (b"\x89PNG", None), (b"RIFF....WEBP", None)),
        (b"RIFF....WAVEfmt ", ("not-an-image", "begins with b'RIFF....WAVEfmt '")),
        (b"\xff\xd8" + bytes(20), ("not-an-image", "begins with " + repr(b"\xff\xd8" + bytes(14)))),
        *((b"\xef\xbb\xbf  <HTML>....", ("web-page", "")), (b"<script>x</scr", ("web-page", ""))),
        (b"<?xml version='1.0'?>\n<!DOCTYPE html>", ("web-page", "")),
    ],
)
def test_what_instead__what_may_be_kept_and_what_is_something_else(start: bytes, found: Any) -> None:
    assert what_instead(start) == found


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.files["/robots.txt"] = b""
    for number in range(3):
        made.files[f"/{number}.jpg"] = picture(number)
    yield made
    made.close()


def _ask(server: Server, *names: str, sha256: str = "", md5: str = "", **settings: Any) -> list[Result]:
    async def go() -> list[Result]:
        config = UrlsConfig(**{"retries": 0, "timeout": 5.0, "private": "listed", "first_wait": 0.0, **settings})
        async with Client(config, per_host=4) as client:
            return [await client.fetch(server.root + name, sha256=sha256, md5=md5) for name in names]

    return asyncio.run(go())


def test_fetch__all_that_is_known_of_a_picture(server: Server) -> None:
    (came,) = _ask(server, "/1.jpg#top")
    data = picture(1)
    assert (came.host, came.reason, came.detail, came.http_status) == ("127.0.0.1", "", "", 200)
    assert (came.data, came.received, came.taken, came.tries) == (data, len(data), len(data), 1)
    assert (came.ext, came.width, came.height) == ("jpg", *Image.open(io.BytesIO(data)).size)
    assert came.sha256 == hashlib.sha256(data).hexdigest()
    assert 0 < came.seconds < 60


@pytest.mark.parametrize(
    ("status", "text", "reasons"),
    [
        (404, b"User-agent: *\nDisallow: /", ["", ""]),
        (500, b"", ["robots", "robots"]),
        (200, b"User-agent: *\nDisallow: /\n\nUser-agent: cusa\nDisallow: /1", ["", "robots"]),
        (200, b"User-agent: other\nDisallow: /", ["", ""]),
    ],
)
def test_fetch__what_a_host_s_robots_txt_says_is_asked_for_once(
    server: Server, status: int, text: bytes, reasons: list[str]
) -> None:
    server.behaviour["/robots.txt"] = lambda handler, n: server.answer(handler, status, text)
    came = _ask(server, "/0.jpg", "/1.jpg", user_agent="cusa/1.0 (+http://a)")
    assert [one.reason for one in came] == reasons
    assert server.asked["/robots.txt"] == 1
    assert [one.reason for one in _ask(server, "/0.jpg", "/1.jpg", robots=False)] == ["", ""]
    assert server.asked["/robots.txt"] == 1


def test_fetch__only_the_bytes_that_were_asked_for(server: Server) -> None:
    digests = {"sha256": hashlib.sha256(picture(0)).hexdigest(), "md5": hashlib.md5(picture(0)).hexdigest()}
    assert _ask(server, "/0.jpg", **{name: digest.upper() for name, digest in digests.items()})[0].reason == ""
    for name, digest in digests.items():
        (came,) = _ask(server, "/1.jpg", **{name: digest})
        found = hashlib.new(name, picture(1)).hexdigest()
        assert (came.reason, came.detail, came.data) == ("changed", f"{name} {found} instead of {digest}", b"")
        assert came.received == len(picture(1))


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (429, 3), (408, 3), (404, 1), (403, 1), (410, 1)])
def test_fetch__as_often_as_another_try_may_help(server: Server, status: int, tries: int) -> None:
    server.behaviour["/0.jpg"] = lambda handler, n: server.answer(handler, status)
    (came,) = _ask(server, "/0.jpg", retries=2)
    assert (came.reason, came.detail, came.http_status) == ("http-status", f"HTTP {status}", status)
    assert (came.tries, server.asked["/0.jpg"]) == (tries, tries)


def test_fetch__waits_twice_as_long_each_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(client_module.asyncio, "sleep", note)
    server.behaviour["/0.jpg"] = lambda handler, n: server.answer(handler, 500)
    assert _ask(server, "/0.jpg", retries=3, first_wait=1.5)[0].tries == 4
    assert [seconds for seconds in waits if seconds] == [1.5, 3.0, 6.0]


@pytest.mark.parametrize("says", [True, False])
def test_fetch__as_many_bytes_as_allowed_whether_the_server_says_how_many_or_not(server: Server, says: bool) -> None:
    def give(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(200)
        handler.send_header(*(("Content-Length", str(len(picture(0)))) if says else ("Connection", "close")))
        handler.end_headers()
        handler.wfile.write(picture(0))
        handler.close_connection = True

    server.behaviour["/0.jpg"] = give
    size = len(picture(0))
    assert _ask(server, "/0.jpg", max_bytes=size)[0].reason == ""
    (came,) = _ask(server, "/0.jpg", max_bytes=size - 1)
    words = f"{size} bytes, {size - 1} allowed" if says else f"more than {size - 1} bytes"
    assert (came.reason, came.detail, came.received) == ("too-many-bytes", words, 0)


@pytest.mark.parametrize(("number", "reason"), [(8, ""), (9, "redirects")])
def test_fetch__as_many_redirects_as_allowed(server: Server, number: int, reason: str) -> None:
    for at in range(number):
        to = f"/to-{at + 1}" if at + 1 < number else "/2.jpg"
        server.behaviour[f"/to-{at}"] = lambda handler, n, to=to: server.answer(handler, 302, Location=to)  # type: ignore[misc]
    (came,) = _ask(server, "/to-0")
    assert (came.reason, came.http_status) == (reason, 302 if reason else 200)
    assert came.data == (b"" if reason else picture(2))
    assert came.detail == ("more than 8" if reason else "")


def test_fetch__pictures_within_the_bounds_of_their_sides_and_scaled(server: Server) -> None:
    width, height = Image.open(io.BytesIO(picture(0))).size
    side = min(width, height)
    assert _ask(server, "/0.jpg", min_side=side)[0].reason == ""
    assert _ask(server, "/0.jpg", min_side=side + 1)[0].reason == "too-small"
    assert _ask(server, "/0.jpg", max_pixels=width * height)[0].reason == ""
    assert _ask(server, "/0.jpg", max_pixels=width * height - 1)[0].reason == "too-large"
    (scaled,) = _ask(server, "/0.jpg", resize=16)
    assert min(scaled.width, scaled.height) == 16
    assert Image.open(io.BytesIO(scaled.data)).size == (scaled.width, scaled.height)
    assert scaled.sha256 == hashlib.sha256(scaled.data).hexdigest() != hashlib.sha256(picture(0)).hexdigest()
    (finer,) = _ask(server, "/0.jpg", resize=16, quality=100)
    assert len(finer.data) > len(scaled.data)


def test_fetch__what_a_server_is_told_of_us(server: Server) -> None:
    told: list[dict[str, str]] = []

    def note(handler: BaseHTTPRequestHandler, n: int) -> None:
        told.append({name.lower(): value for name, value in handler.headers.items()})
        server.answer(handler, 200, picture(0), Set_Cookie="a=b", X_Robots_Tag="mybot: noai, all")

    server.behaviour["/0.jpg"] = note
    assert [one.reason for one in _ask(server, "/0.jpg", "/0.jpg", user_agent="mine/2")] == ["", ""]
    assert [one.reason for one in _ask(server, "/0.jpg", user_agent="mybot/2")] == ["noai"]
    assert _ask(server, "/0.jpg", user_agent="mybot/2", refused_tags=())[0].reason == ""
    assert [one["user-agent"] for one in told] == ["mine/2", "mine/2", "mybot/2", "mybot/2"]
    assert not any("cookie" in one for one in told)
    assert {one["accept-encoding"] for one in told} == {"identity"}
    assert "image/jpeg" in told[0]["accept"]


def test_fetch__rules_of_robots_see_what_is_asked_behind_the_path(server: Server) -> None:
    server.files["/robots.txt"] = b"User-agent: *\nDisallow: /*?x"
    assert [one.reason for one in _ask(server, "/0.jpg?x=1", "/0.jpg")] == ["robots", ""]
    assert server.asked["/0.jpg?x=1"] == 0


_KEY: Any = SimpleNamespace(host="a.example", port=443, is_ssl=True, ssl=True)
_OS = OSError(111, "refused")


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (aiohttp.ClientConnectorDNSError(_KEY, _OS), "host-not-found", True),
        (aiohttp.ClientConnectorDNSError(_KEY, hosts.PrivateAddressError()), "private-address", False),
        (aiohttp.ClientConnectorSSLError(_KEY, _OS), "connect-failed", False),
        (aiohttp.ClientConnectorCertificateError(_KEY, ValueError("x")), "connect-failed", False),
        (aiohttp.ClientConnectorError(_KEY, _OS), "connect-failed", True),
        (aiohttp.ConnectionTimeoutError(), "connect-failed", True),
        (aiohttp.SocketTimeoutError(), "timeout", True),
        (TimeoutError(), "timeout", True),
        (aiohttp.ClientPayloadError(), "cut", True),
        (aiohttp.ServerDisconnectedError(), "cut", True),
        (aiohttp.ClientOSError(), "cut", True),
        (aiohttp.TooManyRedirects(_KEY, ()), "bad-answer", False),
        (ValueError("no header"), "bad-answer", False),
    ],
)
def test_failure__what_an_error_of_the_library_means(error: Exception, reason: str, again: bool) -> None:
    failure = client_module._failure(error)
    assert (failure.reason, failure.again, failure.after) == (reason, again, 0.0)
    words = {"bad-answer": type(error).__name__, "connect-failed": "no encrypted connection that can be trusted"}
    assert failure.detail == (words.get(reason, "") if not again else "")
