"""Hosts: how many requests each gets at once, when it asked for a rest, and which addresses it may have."""

import asyncio
import contextlib
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from cusa.pipeline.urls.failure import Failure
from cusa.pipeline.urls.robots import Rules

_GIVEN_UP_AFTER = 3  # URLs of a host that never answered; the others of it are not tried
_LOOKUPS = 32  # names at once; a dead one takes seconds


class Host:
    """One host and port, as one process knows it."""

    def __init__(self, requests: int, *, patience: float) -> None:
        self.turns = asyncio.Semaphore(requests)
        """Held while it is asked for something."""
        self._patience = patience
        self._not_before = 0.0
        self._failures = 0
        self._silences = 0
        self._answered = False
        self._dead: Failure | None = None
        self.rules: Rules | None = None
        """Of its robots.txt; None before it was asked."""
        self.asking = asyncio.Lock()
        """Held while its robots.txt is asked for."""

    async def rest(self) -> None:
        """Wait as long as the host asked to be left alone."""
        while self._not_before and (seconds := self._not_before - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(seconds, self._patience))

    def refuse_dead(self) -> None:
        """Refuse a host that never answered.

        Raises:
            Failure: that of its last URL.
        """
        if self._dead is not None:
            raise Failure(self._dead.reason, self._dead.detail)

    def pause(self, seconds: float) -> None:
        """Leave the host alone for some seconds, as it asked."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    def succeeded(self) -> None:
        """Note that the host answered."""
        self._answered = True

    def gave_no_rules(self, failure: Failure) -> None:
        """Note that the host's robots.txt could not be read, which forbids all of it (RFC 9309 section 2.3.1.4)."""
        self._silences += 1
        if self._silences >= _GIVEN_UP_AFTER:
            self._dead = failure

    def failed(self, failure: Failure) -> None:
        """Note that a URL of the host failed for good."""
        if failure.reason not in ("host-not-found", "connect-failed"):
            self._answered = True
        elif not self._answered:
            self._failures += 1
            if self._failures >= _GIVEN_UP_AFTER:
                self._dead = failure


class Hosts:
    """Every host that a process asked, up to a bound beyond which those are forgotten that nobody waits for.

    Args:
        requests: at once to one host.
        patience: seconds that a host may ask to be left alone, at most.
    """

    _MOST = 20_000

    def __init__(self, requests: int, *, patience: float) -> None:
        self._requests = requests
        self._patience = patience
        self._hosts: dict[tuple[str | None, str | None, int | None], Host] = {}

    def of(self, url: URL) -> Host:
        """Return the host of a URL."""
        name = (url.scheme, url.raw_host, url.port)
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._MOST:
                del self._hosts[next(iter(self._hosts))]
            host = self._hosts[name] = Host(self._requests, patience=self._patience)
        return host


class PrivateAddressError(OSError):
    """A name that stands for addresses of private networks alone."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public network."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast


def is_public_literal(url: URL) -> bool:
    """Tell whether a URL's host is a name, or an address of the public network; names are looked at when resolved."""
    host = url.raw_host or ""
    with contextlib.suppress(ValueError):
        return is_public(host)
    try:
        # What the resolver takes for an address too: 127.1, 0x7f.1, 2130706433.
        return is_public(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return True


class _PublicResolver(ThreadedResolver):
    """Gives addresses of the public network only; what is connected to is what was looked at."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        every = await super().resolve(host, port, family)
        public = [one for one in every if is_public(one["host"])]
        if every and not public:
            raise PrivateAddressError
        return public


def resolver(*, private: bool) -> AbstractResolver:
    """Return what looks names up, in threads.

    Args:
        private: whether addresses of private networks are given too.
    """
    return ThreadedResolver() if private else _PublicResolver()


def enlarge_pool(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop look up many names at once."""
    loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, "names"))
