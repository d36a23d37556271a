"""Addresses and content: what is asked for at all, and what first bytes are."""

import asyncio
import socket
import time
from typing import Any

import pytest
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from cusa.pipeline.config import UrlsConfig
from cusa.pipeline.urls import hosts
from cusa.pipeline.urls.client import Client, Result, parse
from cusa.pipeline.urls.content import what_instead
from cusa.pipeline.urls.failure import Failure
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
