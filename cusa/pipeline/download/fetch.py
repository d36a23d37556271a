"""Fetching one file over HTTP from servers that cut, stall, lie or send a web page instead.

A file that is half there is kept under `.partial-...` with a note of what it is half of, so that another run goes on
where this one was cut (HTTP range requests, RFC 9110 section 14; `If-Range` makes sure it is still the same file).
"""

import hashlib
import http.client
import json
import random
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.pipeline.config import DownloadConfig

_CHUNK = 1 << 20
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATIENCE = 120.0  # seconds that a server's Retry-After may ask for at most


class FetchError(Exception):
    """A file could not be fetched.

    Args:
        message: why, in words.
        again: whether another try may help.
        after: seconds the server asked to wait.
    """

    def __init__(self, message: str, *, again: bool, after: float = 0.0) -> None:
        super().__init__(message)
        self.again = again
        self.after = after


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it comes; empty or None = nothing."""

    bytes: int | None = None
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Fetched:
    """A file that came."""

    bytes: int
    sha256: str
    url: str


def fetch(
    path: Path,
    urls: tuple[str, ...],
    *,
    expected: Expected,
    config: DownloadConfig,
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch a file from the first URL that gives it whole and right; `came_from` knows which until `forget` is called.

    Each URL is tried `config.retries` times, waiting twice as long each time, from where the last try was cut.

    Args:
        path: the final name.
        urls: where it lies, the official place first.
        expected: its size and digests, where known; a file that differs is never kept.
        config: retries, patience.
        on_bytes: called with the bytes that are there, and the bytes there will be if the server said so.
        sleep: waits some seconds.

    Raises:
        FetchError: if no URL gives it; the message says what each answered.
        DataError: if the disk is full or cannot be written.
    """
    reasons = []
    for url in urls:
        wait = config.first_wait
        for attempt in range(config.retries + 1):
            try:
                return _try(path, url, expected, config, on_bytes)
            except FetchError as error:
                reason, again, after = str(error), error.again, error.after
            except (OSError, http.client.HTTPException) as error:  # time-outs and cut connections are OSErrors
                reason, again, after = f"{type(error).__name__}: {error}", True, 0.0
            if not again or attempt == config.retries:
                reasons.append(f"{url}: {reason} (tried {attempt + 1} times)")
                break
            # Half the wait is chance, so that many clients do not come back at the same moment.
            sleep(max(after, wait * (0.5 + random.random() / 2)))
            wait = min(wait * 2, _PATIENCE)
    raise FetchError("; ".join(reasons), again=False)


def came_from(path: Path) -> str:
    """Return the URL that a file came from, while `forget` was not called for it; else an empty text."""
    try:
        return str(json.loads(leftovers(path)[1].read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def forget(path: Path) -> None:
    """Remove what is kept beside a file that came, once it is written down elsewhere where it came from."""
    _forget(*leftovers(path))


def leftovers(path: Path) -> tuple[Path, Path]:
    """Return the names of a half-fetched file and of the note on what it is half of."""
    stem = f"{store.TEMPORARY}{hashlib.sha256(path.name.encode()).hexdigest()[:12]}"
    return path.parent / f"{stem}.part", path.parent / f"{stem}.json"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to the web only: a server must not send us to a file or another protocol."""

    max_redirections = 8
    max_repeats = 2

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:  # noqa: D102 (the library's)
        address = arguments[-1]
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https"):
            raise FetchError(f"redirected to {address!r}, which is no web address", again=False)
        return super().redirect_request(*arguments)


def _try(
    path: Path,
    url: str,
    expected: Expected,
    config: DownloadConfig,
    on_bytes: Callable[[int, int | None], None],
) -> Fetched:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FetchError("is no http or https address", again=False)
    part, note = leftovers(path)
    store.make_folder(path.parent)
    start, validator = _resumable(part, note, url)
    request = urllib.request.Request(url, headers={"User-Agent": "cusa", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=config.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is no beginning of what lies there
            _forget(part, note)
        after = error.headers.get("Retry-After", "")
        again = error.code in _TRY_AGAIN or error.code == 416
        wait = min(float(after), _PATIENCE) if after.isdigit() else 0.0
        raise FetchError(f"HTTP {error.code} {error.reason}", again=again, after=wait) from None
    except urllib.error.URLError as error:
        raise FetchError(f"{error.reason}", again=not isinstance(error.reason, ValueError)) from None
    with response, store.named_os_errors(path):
        if response.status != 206:
            start = 0  # the whole file, from its beginning
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        _refuse_wrong(response.headers, path, total, expected)
        store.write_json(note, {"url": url, "validator": _validator(response.headers)})
        sha256, md5 = _digests_so_far(part, start)
        done = start
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            while chunk := response.read1(_CHUNK):  # what is there: a cut must not lose it
                file.write(chunk)
                sha256.update(chunk)
                md5.update(chunk)
                done += len(chunk)
                if expected.bytes is not None and done > expected.bytes:
                    break
                on_bytes(done, expected.bytes if expected.bytes is not None else total)
    if total is not None and done < total:
        raise FetchError(f"the connection was cut after {done} of {total} bytes", again=True)
    for what, is_, wanted in (
        ("bytes", done, expected.bytes),
        ("sha256", sha256.hexdigest(), expected.sha256 or None),
        ("md5", md5.hexdigest(), expected.md5 or None),
    ):
        if wanted is not None and is_ != wanted:
            _forget(part, note)
            raise FetchError(f"the file is another one: {what} {is_}, expected {wanted}", again=start > 0)
    with store.whole_file(path) as temporary:
        part.replace(temporary)
    return Fetched(done, sha256.hexdigest(), url)


def _resumable(part: Path, note: Path, url: str) -> tuple[int, str]:
    """Return how much of a file is there already, and what tells whether it is still the same file."""
    try:
        fields = json.loads(note.read_text(encoding="utf-8"))
        if fields["url"] == url and part.is_file():
            return part.stat().st_size, str(fields["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _validator(headers: Message) -> str:
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _refuse_wrong(headers: Message, path: Path, total: int | None, expected: Expected) -> None:
    if headers.get_content_type() == "text/html" and path.suffix not in (".html", ".htm"):
        raise FetchError("the server sent a web page (HTML) instead of the file", again=False)
    if total is not None and expected.bytes is not None and total != expected.bytes:
        raise FetchError(f"the server announces {total} bytes, {expected.bytes} are expected", again=False)
    free = shutil.disk_usage(path.parent).free
    rest = (total or expected.bytes or 0) - (leftovers(path)[0].stat().st_size if leftovers(path)[0].is_file() else 0)
    if rest > free:
        raise DataError(
            f"{path} needs {rest / 2**20:.0f} MiB more and {free / 2**20:.0f} MiB are free. Free some space, or choose "
            "another --out.",
            path=path,
        )


def _digests_so_far(part: Path, start: int) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    if start:
        with part.open("rb") as file:
            while start and (chunk := file.read(min(_CHUNK, start))):
                sha256.update(chunk)
                md5.update(chunk)
                start -= len(chunk)
    return sha256, md5


def _forget(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
