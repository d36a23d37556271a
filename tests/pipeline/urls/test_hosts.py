"""Hosts: dead ones are given up, those that asked for a rest get it, and each name and port is one of its own."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from cusa.pipeline.urls import hosts
from cusa.pipeline.urls.failure import Failure
from cusa.pipeline.urls.hosts import Host, Hosts

SILENT = Failure("connect-failed", "x")


def _dead(host: Host) -> str:
    try:
        host.refuse_dead()
    except Failure as failure:
        return failure.reason
    return ""


def _in_loop(work: Callable[[], Any]) -> Any:
    async def go() -> Any:
        return work()

    return asyncio.run(go())


@pytest.mark.parametrize("reason", ["connect-failed", "host-not-found"])
def test_host__that_never_answered_is_given_up_after_three_urls(reason: str) -> None:
    def work() -> list[str]:
        host = Host(1, patience=1.0)
        said = []
        for _ in range(4):
            host.failed(Failure(reason, "detail"))
            said.append(_dead(host))
        return said

    assert _in_loop(work) == ["", "", reason, reason]


@pytest.mark.parametrize("answer", ["success", "http-status", "timeout", "cut"])
def test_host__that_answered_once_is_never_given_up(answer: str) -> None:
    def work() -> str:
        host = Host(1, patience=1.0)
        host.failed(SILENT)
        if answer == "success":
            host.succeeded()
        else:
            host.failed(Failure(answer, ""))
        for _ in range(9):
            host.failed(SILENT)
        return _dead(host)

    assert _in_loop(work) == ""


def test_host__whose_robots_txt_cannot_be_read_is_given_up_after_three_tries() -> None:
    def work() -> list[str]:
        host = Host(1, patience=1.0)
        host.succeeded()
        said = []
        for _ in range(3):
            host.gave_no_rules(Failure("timeout", ""))
            said.append(_dead(host))
        return said

    assert _in_loop(work) == ["", "", "timeout"]


def test_host__rests_as_long_as_it_asked_the_longest() -> None:
    async def work() -> list[float]:
        host = Host(1, patience=0.05)
        loop, took = asyncio.get_running_loop(), []
        for pauses in ((), (0.2, 0.01), ()):
            for seconds in pauses:
                host.pause(seconds)
            start = loop.time()
            await host.rest()
            took.append(loop.time() - start)
        return took

    none, rested, over = asyncio.run(work())
    assert none < 0.1
    assert rested >= 0.19, "in steps of its patience, to the end"
    assert over < 0.1


def test_hosts__one_a_scheme_name_and_port_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        known = Hosts(2, patience=1.0)
        first = known.of(URL("http://a.example/1.jpg"))
        assert known.of(URL("http://A.example:80/2.jpg")) is first
        others = ("https://a.example/", "http://a.example:81/", "http://b.example/", "http://x.a.example/")
        assert len({id(known.of(URL(url))) for url in others} | {id(first)}) == 5
        monkeypatch.setattr(Hosts, "_MOST", 5)
        assert known.of(URL("http://a.example/")) is first
        known.of(URL("http://new.example/"))
        assert known.of(URL("http://a.example/")) is not first, "the one that was met first was forgotten"

    _in_loop(work)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("93.184.216.34", True), ("192.168.0.1", False), ("172.16.0.1", False), ("172.32.0.1", True)),
        *(("fe80::1%eth0", False), ("::ffff:8.8.8.8", True), ("::ffff:127.0.0.1", False), ("ff02::1", False)),
        *(("fd00::1", False), ("239.1.1.1", False), ("192.0.2.1", False)),
    ],
)
def test_is_public__of_every_kind_of_address(address: str, public: bool) -> None:
    assert hosts.is_public(address) is public


@pytest.mark.parametrize(
    ("found", "private", "given"),
    [
        (["10.0.0.1", "8.8.8.8", "127.0.0.1"], False, ["8.8.8.8"]),
        (["10.0.0.1", "8.8.8.8"], True, ["10.0.0.1", "8.8.8.8"]),
        ([], False, []),
        (["10.0.0.1"], False, None),
    ],
)
def test_resolver__gives_public_addresses_alone_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, found: list[str], private: bool, given: list[str] | None
) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = socket.AF_INET) -> Any:
        return [
            {"hostname": host, "host": one, "port": port, "family": family, "proto": 0, "flags": 0} for one in found
        ]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)

    async def go() -> list[str]:
        return [one["host"] for one in await hosts.resolver(private=private).resolve("a.example", 80)]

    if given is None:
        with pytest.raises(hosts.PrivateAddressError):
            asyncio.run(go())
    else:
        assert asyncio.run(go()) == given


def test_enlarge_pool__many_names_are_looked_up_at_once() -> None:
    async def go() -> float:
        loop = asyncio.get_running_loop()
        hosts.enlarge_pool(loop)
        start = loop.time()
        await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.2) for _ in range(32)))
        return loop.time() - start

    assert asyncio.run(go()) < 3.2, "not one after the other"
