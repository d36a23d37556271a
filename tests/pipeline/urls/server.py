"""A hostile web on this machine: what it answers is a function of the path, once also of how often it was asked.

python -m tests.pipeline.urls.server     # prints its port and serves until its input ends
"""

import asyncio
import io
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import unquote

import numpy as np
from PIL import Image

_KEEP = b"Connection: keep-alive\r\n"
ROBOTS = b"User-agent: *\nDisallow: /forbidden/\n"
PAGE = b"<!DOCTYPE html><html><body>please log in</body></html>"


@cache
def picture(number: int) -> bytes:
    """Return a small JPEG, another one for each number below 256."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 255, (4, 4, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=70)
    return out.getvalue()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    more = "".join(f"{header}\r\n" for header in headers).encode()
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b%b\r\n%b" % (status.encode(), len(body), more, _KEEP, body)


class Site(asyncio.Protocol):
    """One connection."""

    asked: Counter[str]
    port = 0
    at_once = 0
    most_at_once = 0
    """Requests below `/wait/` that were answered at the same time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            path = unquote(self._waiting[:end].split(b" ", 2)[1].decode())
            self._waiting = self._waiting[end + 4 :]
            self.asked[path] += 1
            self._answer(path)

    def _answer(self, path: str) -> None:
        transport = self._transport
        assert transport is not None
        kind, _, name = path[1:].partition("/")
        number = int("".join(filter(str.isdigit, name)) or 0) % 256
        write = transport.write
        if kind in ("img", "forbidden"):
            write(answer(picture(number), "200 OK", "Content-Type: image/jpeg"))
        elif kind == "robots.txt":
            write(answer(ROBOTS))
        elif kind == "page":
            write(answer(PAGE, "200 OK", "Content-Type: text/html"))
        elif kind == "login":
            write(answer(b"", "302 Found", "Location: /page/login"))
        elif kind == "empty":
            write(answer(b""))
        elif kind == "loop":
            write(answer(b"", "301 Moved", f"Location: /loop/{name}x"))
        elif kind == "moved":
            write(answer(b"", "308 Moved", f"Location: /img/{name}"))
        elif kind == "inside":  # to another host of this machine
            write(answer(b"", "302 Found", f"Location: http://127.0.0.2:{self.port}/img/{name}"))
        elif kind == "away":
            write(answer(b"", "302 Found", "Location: file:///etc/passwd"))
        elif kind.isdigit():
            write(answer(PAGE, f"{kind} No"))
        elif kind == "busy":  # twice, then the picture
            times = self.asked[path]
            write(
                answer(b"", "503 Busy", "Retry-After: 0")
                if times % 3
                else answer(picture(number), "200 OK", "Content-Type: image/jpeg")
            )
        elif kind == "later":  # a second after the first time
            again = self.asked[path] > 1
            write(answer(picture(number)) if again else answer(b"", "429 Slow", "Retry-After: 1"))
        elif kind == "wait":
            asyncio.get_running_loop().create_task(self._wait(picture(number)))
        elif kind == "tag":
            write(answer(picture(number), "200 OK", f"X-Robots-Tag: {name}"))
        elif kind == "gif":
            write(b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n\r\nGIF89a" + bytes(100_000))  # and so on, for ever
        elif kind == "bomb":
            write(answer(_bomb()))
        elif kind == "endless":
            write(b"HTTP/1.1 200 OK\r\n\r\n" + picture(0) + bytes(3 << 20))
        elif kind == "huge":
            write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + picture(0))
        elif kind == "cut":
            write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + picture(number)[:300])
            transport.close()
        elif kind == "half":
            write(answer(picture(number)[:-200]))
        elif kind == "video":
            write(answer(b"\0\0\0\x18ftypmp42" + bytes(5000), "200 OK", "Content-Type: image/jpeg"))
        elif kind == "garbage":
            write(b"no http at all\r\n\r\n")
            transport.close()
        elif kind == "drip":
            asyncio.get_running_loop().create_task(self._drip(picture(number)))
        elif kind == "silent":
            pass
        else:
            write(answer(PAGE, "404 Not Found"))

    async def _wait(self, data: bytes) -> None:
        assert self._transport is not None
        type(self).at_once += 1
        type(self).most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.05)
        type(self).at_once -= 1
        self._transport.write(answer(data))

    async def _drip(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
        for at in range(len(data)):
            if self._transport.is_closing():
                return
            self._transport.write(data[at : at + 1])
            await asyncio.sleep(0.05)


@cache
def _bomb() -> bytes:
    """Return a PNG that says it has 400 megapixels."""
    head = (20_000).to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))
    body = bytes(200_000)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


async def _serve(port: int = 0) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Site, "0.0.0.0", port, backlog=4096)
    Site.port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"{Site.port}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def serving() -> Iterator[tuple[int, Counter[str]]]:
    """Serve from a thread; give the port, and how often each path was asked for."""
    Site.asked = Counter()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Site, "0.0.0.0", 0))
    Site.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Site.port, Site.asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


if __name__ == "__main__":
    Site.asked = Counter()
    asyncio.run(_serve())
