"""Fetching one picture from a stranger's server: bounded in bytes, pixels, time, redirects and addresses."""

import asyncio
import hashlib
import io
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from PIL import Image
from yarl import URL

from cusa.pipeline.config import ShardConfig, UrlsConfig
from cusa.pipeline.download.fetch import retry_after
from cusa.pipeline.shard.images import Refused, prove
from cusa.pipeline.urls import hosts, robots
from cusa.pipeline.urls.content import what_instead
from cusa.pipeline.urls.failure import Failure
from cusa.pipeline.urls.hosts import Hosts

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 8
_LOOK_AT = 64 << 10  # bytes after which a picture's size is looked at before the rest comes
_AT_ONCE = 256 << 10  # bytes of a JPEG that is looked at beside nothing: its structure is walked in microseconds
_WRONG = (aiohttp.ClientError, TimeoutError, ValueError)
_HEADERS = {"Accept": "image/jpeg, image/png, image/webp, image/*;q=0.5", "Accept-Encoding": "identity"}


@dataclass
class Result:
    """What came of one URL."""

    host: str = ""
    reason: str = ""
    """Why it was dropped, one of `cusa.manifests.records.REASONS`; empty if it was kept."""
    detail: str = ""
    http_status: int = 0
    received: int = 0
    """Bytes of the last answer, if it came whole."""
    taken: int = 0
    """Bytes of the last answer, given up or not."""
    data: bytes = b""
    ext: str = ""
    width: int = 0
    height: int = 0
    sha256: str = ""
    seconds: float = 0.0
    tries: int = 0


class Client:
    """Fetches pictures, many at once, within one event loop.

    Args:
        config: bounds and patience.
        per_host: requests at once to one host.
    """

    def __init__(self, config: UrlsConfig, *, per_host: int) -> None:
        self._config = config
        self._proof = ShardConfig(
            max_pixels=config.max_pixels, min_side=config.min_side, resize=config.resize, quality=config.quality
        )
        self._slots = asyncio.Semaphore(config.connections)
        self._hosts = Hosts(per_host, patience=config.patience)
        self._threads = ThreadPoolExecutor(2, "pictures")
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> "Client":
        hosts.enlarge_pool(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def fetch(self, address: str, *, sha256: str = "", md5: str = "") -> Result:
        """Fetch one picture.

        Args:
            address: an http or https URL; a fragment is left out.
            sha256: what its bytes must have; empty = any.
            md5: likewise.
        """
        result, start = Result(), time.monotonic()
        try:
            url = parse(address)
            result.host = url.host or ""
            await self._tries(url, result)
            for name, wanted in (("sha256", sha256), ("md5", md5)):
                if wanted and _hex(name, result.data) != wanted.lower():
                    raise Failure("changed", f"{name} {_hex(name, result.data)} instead of {wanted}")
            await self._prove(result)
        except Failure as failure:
            result.reason, result.detail = failure.reason, failure.detail
        except Refused as refused:
            result.reason, result.detail = refused.reason, refused.detail
        if result.reason:
            result.data = b""
        result.seconds = time.monotonic() - start
        return result

    async def _tries(self, url: URL, result: Result) -> None:
        config, host = self._config, self._hosts.of(url)
        wait = config.first_wait
        while True:
            result.tries += 1
            try:
                await host.rest()
                async with host.turns, self._slots:
                    host.refuse_dead()
                    await self._follow(url, result)
                host.succeeded()
                return
            except Failure as failure:
                if failure.after > config.patience or not failure.again or result.tries > config.retries:
                    host.failed(failure)
                    raise
                if failure.after:
                    host.pause(failure.after)
            await asyncio.sleep(wait)
            wait *= 2

    async def _follow(self, url: URL, result: Result) -> None:
        """Ask for a URL, and for those that the answers redirect to."""
        first = url.host
        for _ in range(_MOST_REDIRECTS + 1):
            listed = url.host == first
            await self._obey(url, listed=listed)
            location = await self._ask(url, result, listed=listed)
            if location is None:
                return
            try:
                url = url.join(URL(location))
            except ValueError:
                raise Failure("redirects", f"to {location[:200]!r}") from None
            if url.scheme not in ("http", "https") or not url.host:
                raise Failure("redirects", f"to {location[:200]!r}")
            result.host = first or ""
        raise Failure("redirects", f"more than {_MOST_REDIRECTS}")

    async def _obey(self, url: URL, *, listed: bool) -> None:
        """Refuse what the host's robots.txt forbids; it is asked for once a host."""
        if not self._config.robots:
            return
        host = self._hosts.of(url)
        if host.rules is None:
            async with host.asking:
                if host.rules is None:
                    try:
                        host.rules = await self._rules(url, listed=listed)
                    except Failure as failure:
                        host.gave_no_rules(failure)
                        raise
        if host.rules.rules and not host.rules.allow(url.raw_path_qs):
            raise Failure("robots", "")

    async def _rules(self, url: URL, *, listed: bool) -> robots.Rules:
        session = self._session(url, listed=listed)
        try:
            async with session.get(url.join(URL("/robots.txt"))) as response:
                if response.status >= 500:
                    return robots.NOTHING
                if response.status != 200:
                    return robots.EVERYTHING
                data = await response.content.read(robots.MOST_BYTES)
        except _WRONG as error:
            raise _failure(error) from None
        return robots.parse(data.decode("utf-8", "replace"), self._config.user_agent)

    async def _ask(self, url: URL, result: Result, *, listed: bool) -> str | None:
        """Ask for one URL; return where the answer redirects to, None if it is the picture."""
        result.http_status = result.received = result.taken = 0
        session = self._session(url, listed=listed)
        try:
            async with session.get(url, allow_redirects=False) as response:
                status = result.http_status = response.status
                if status in _REDIRECTS:
                    return str(response.headers.get("Location", ""))
                if status != 200:
                    after = retry_after(response.headers.get("Retry-After", ""))
                    raise Failure("http-status", f"HTTP {status}", again=status in _TRY_AGAIN, after=after)
                self._refuse_by_headers(response)
                result.data = await self._body(response, result)
        except _WRONG as error:
            raise _failure(error) from None
        return None

    def _refuse_by_headers(self, response: aiohttp.ClientResponse) -> None:
        config = self._config
        tags = response.headers.getall("X-Robots-Tag", ())
        if tags and (tag := robots.refused_tag(tags, agent=config.user_agent, refused=config.refused_tags)):
            raise Failure(tag, f"X-Robots-Tag: {', '.join(tags)[:200]}")
        length = response.content_length
        if length is not None and length > config.max_bytes:
            raise Failure("too-many-bytes", f"{length} bytes, {config.max_bytes} allowed")

    async def _body(self, response: aiohttp.ClientResponse, result: Result) -> bytes:
        config, start = self._config, time.monotonic()
        chunks: list[bytes] = []
        received, looked = 0, False
        while chunk := await response.content.readany():
            if not received and (instead := what_instead(chunk)):
                result.taken = len(chunk)
                raise Failure(*instead)
            chunks.append(chunk)
            received += len(chunk)
            result.taken = received
            if received > config.max_bytes:
                raise Failure("too-many-bytes", f"more than {config.max_bytes} bytes")
            seconds = time.monotonic() - start
            if seconds > config.timeout and received < config.min_speed * seconds:
                raise Failure("too-slow", f"less than {config.min_speed:g} bytes a second")
            if received > _LOOK_AT and not looked:
                looked = True
                self._refuse_many_pixels(b"".join(chunks))
        if not received:
            raise Failure("empty-body", "")
        result.received = received
        return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _refuse_many_pixels(self, head: bytes) -> None:
        """Refuse a picture by the size that its first bytes name, before the rest comes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                width, height = Image.open(io.BytesIO(head)).size
            except Image.DecompressionBombError as error:
                raise Failure("too-large", "more pixels than can be decoded") from error
            except Exception:  # noqa: BLE001 (whatever a half picture makes a decoder do, the whole one is looked at)
                return
        if width * height > self._config.max_pixels:
            raise Failure("too-large", f"{width} x {height} pixels, {self._config.max_pixels} allowed")

    def _session(self, url: URL, *, listed: bool) -> aiohttp.ClientSession:
        """Return the session that may connect to private addresses, or the one that may not.

        Raises:
            Failure: if the URL's host is a private address, and it may not.
        """
        private = self._config.private == "allow" or (self._config.private == "listed" and listed)
        if not private and not hosts.is_public_literal(url):
            raise Failure("private-address", "")
        if private not in self._sessions:
            config = self._config
            connector = aiohttp.TCPConnector(
                limit=config.connections,
                ttl_dns_cache=300,
                resolver=hosts.resolver(private=private),
            )
            self._sessions[private] = aiohttp.ClientSession(
                connector=connector,
                headers={**_HEADERS, "User-Agent": config.user_agent},
                timeout=aiohttp.ClientTimeout(
                    total=config.longest, sock_connect=config.timeout, sock_read=config.timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._sessions[private]

    async def _prove(self, result: Result) -> None:
        """Prove that a picture is whole; whatever needs a decoder is done beside the event loop."""
        if len(result.data) <= _AT_ONCE and result.data[:2] == b"\xff\xd8" and not self._config.resize:
            proved = prove(result.data, self._proof)
        else:
            loop = asyncio.get_running_loop()
            proved = await loop.run_in_executor(self._threads, prove, result.data, self._proof)
        result.data, result.ext, result.width, result.height = proved
        result.sha256 = hashlib.sha256(result.data).hexdigest()


def _failure(error: Exception) -> Failure:
    """Return what an error of the client's means."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        if isinstance(error.os_error, hosts.PrivateAddressError):
            return Failure("private-address", "")
        return Failure("host-not-found", "", again=True)
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return Failure("connect-failed", "no encrypted connection that can be trusted")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Failure("connect-failed", "", again=True)
    if isinstance(error, TimeoutError):
        return Failure("timeout", "", again=True)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return Failure("cut", "", again=True)
    return Failure("bad-answer", type(error).__name__)


def parse(address: str) -> URL:
    """Return a web address as it is asked for: without fragment, its host in ASCII.

    Raises:
        Failure: if it is none.
    """
    try:
        url = URL(address.strip()).with_fragment(None)
    except ValueError:  # a host or port that cannot be
        raise Failure("bad-url", f"{_without_secrets(address)!r}") from None
    if url.scheme in ("http", "https") and url.host and url.raw_host and url.user is None and url.port:
        return url
    raise Failure("bad-url", f"{_without_secrets(address)!r}")


def _without_secrets(address: str) -> str:
    """Return the beginning of an address as tables may show it: without a name and password before the host."""
    return re.sub(r"//[^/?#]*@", "//...@", address)[:200]


def _hex(name: str, data: bytes) -> str:
    return hashlib.new(name, data, usedforsecurity=False).hexdigest()


__all__ = ["Client", "Result", "parse"]
