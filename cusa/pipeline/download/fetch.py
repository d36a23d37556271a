"""Fetching one file over HTTP from servers that cut, stall, lie or send a web page instead.

A file that is half there is kept under `.partial-...` with a note of what it is half of, so that another run goes on
where this one was cut (HTTP range requests, RFC 9110 section 14). `If-Range` asks for the rest of the same file only,
and the `Content-Range`, size and ETag of the answer are compared with the note: a server that answers with another
range, or with another file, makes the download begin again.
"""

import hashlib
import http.client
import json
import random
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.pipeline.config import DownloadConfig

_CHUNK = 1 << 20
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATIENCE = 120.0  # seconds that a server's Retry-After may ask for at most
_NUMBER = re.compile("[0-9]{1,18}")  # str.isdigit takes digits that int does not
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_HEAD = 512  # bytes of a file in which a web page or a pointer shows itself
_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_POINTER = b"version https://git-lfs.github.com/spec/"


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
    """Follows a few redirects, within the web and never from https to http."""

    max_redirections = 8
    max_repeats = 2

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:  # noqa: D102 (the library's)
        request, address = arguments[0], arguments[-1]
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https"):
            raise FetchError(f"redirected to {address!r}, which is no web address", again=False)
        if request.type == "https" and scheme != "https":
            raise FetchError(f"redirected from https to {address!r}, which anyone on the way could change", again=False)
        return super().redirect_request(*arguments)


@dataclass(frozen=True)
class _Note:
    """The file that a half-fetched one is half of."""

    url: str
    etag: str = ""
    modified: str = ""
    total: int | None = None
    """Bytes of the whole file, where the server said so."""

    @property
    def validator(self) -> str:
        """What `If-Range` may carry: a strong ETag, else the date (RFC 9110 section 13.1.5); empty if neither."""
        return self.etag if self.etag.startswith('"') else self.modified


def _try(
    path: Path,
    url: str,
    expected: Expected,
    config: DownloadConfig,
    on_bytes: Callable[[int, int | None], None],
) -> Fetched:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FetchError("is no http or https address", again=False)
    part, note_path = leftovers(path)
    store.make_folder(path.parent)
    start, note = _resumable(part, note_path, url, expected)
    request = urllib.request.Request(url, headers={"User-Agent": "cusa", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if note.validator:
            request.add_header("If-Range", note.validator)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=config.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is no beginning of what lies there
            _forget(part, note_path)
        again = error.code in _TRY_AGAIN or error.code == 416
        after = retry_after(str(error.headers.get("Retry-After", "")))
        raise FetchError(f"HTTP {error.code} {error.reason}", again=again, after=after) from None
    except urllib.error.URLError as error:
        raise FetchError(f"{error.reason}", again=not isinstance(error.reason, ValueError)) from None
    with response, named_os_errors(path):
        if response.status not in (200, 206):
            raise FetchError(f"HTTP {response.status} {response.reason}, which brings no file", again=False)
        try:
            start, total = _extent(response.status, response.headers, start, note)
        except FetchError:
            _forget(part, note_path)
            raise
        _refuse_wrong(response.headers, path, total, expected)
        if total is None and not response.chunked and expected == Expected():
            raise FetchError(
                "the server does not say how long the file is, so a cut would go unseen; give its bytes or sha256 in "
                "the manifest",
                again=False,
            )
        if not start:
            _forget(part, note_path)  # first, so that a note never speaks of another file's bytes
        headers = response.headers
        now = _Note(url, str(headers.get("ETag", "")), str(headers.get("Last-Modified", "")), total)
        store.write_json(note_path, asdict(now))
        sha256, md5 = _digests_so_far(part, start)
        done = start
        pace = _Pace(config)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            while chunk := response.read1(_CHUNK):  # what is there: a cut must not lose it
                file.write(chunk)
                sha256.update(chunk)
                md5.update(chunk)
                done += len(chunk)
                if (total is not None and done > total) or (expected.bytes is not None and done > expected.bytes):
                    break
                on_bytes(done, expected.bytes if expected.bytes is not None else total)
                pace.check(len(chunk))
    if total is not None and done < total:
        raise FetchError(f"the connection was cut after {done} of {total} bytes", again=True)
    for what, is_, wanted in (
        ("bytes", done, expected.bytes if expected.bytes is not None else total),
        ("sha256", sha256.hexdigest(), expected.sha256 or None),
        ("md5", md5.hexdigest(), expected.md5 or None),
    ):
        if wanted is not None and is_ != wanted:
            _forget(part, note_path)
            raise FetchError(f"the file is another one: {what} {is_}, expected {wanted}", again=start > 0)
    if reason := _no_data(part, path, expected):
        _forget(part, note_path)
        raise FetchError(reason, again=False)
    with store.whole_file(path) as temporary:
        part.replace(temporary)
    return Fetched(done, sha256.hexdigest(), url)


def _resumable(part: Path, note_path: Path, url: str, expected: Expected) -> tuple[int, _Note]:
    """Return how many bytes of a file are there already, and the note on it.

    Where neither a digest nor a validator could tell that the file has changed, it is begun again.
    """
    try:
        note = _Note(**json.loads(note_path.read_text(encoding="utf-8")))
        if note.url == url and part.is_file() and (note.validator or expected.sha256 or expected.md5):
            return part.stat().st_size, note
    except (OSError, ValueError, TypeError):
        pass
    return 0, _Note(url)


def _extent(status: int, headers: Message, asked: int, note: _Note) -> tuple[int, int | None]:
    """Return where an answer's bytes begin in the file, and how long the whole file is (None: not said).

    Args:
        status: 200 for the whole file, 206 for a range.
        headers: the answer's.
        asked: the first byte that was asked for.
        note: the file of which `asked` bytes are there.

    Raises:
        FetchError: if the answer is no whole file and not the rest of the noted one; another try may help.
    """
    lengths = {str(value).strip() for value in headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(_NUMBER.fullmatch(length) for length in lengths):
        raise FetchError(f"the server announces Content-Length {', '.join(sorted(lengths))}, no number", again=True)
    length = int(lengths.pop()) if lengths else None
    if status == 200:
        return 0, length
    sent = str(headers.get("Content-Range", ""))
    match = _RANGE.fullmatch(sent.strip())
    if match is None:
        raise FetchError(f"the server sent a part of the file as {sent or 'no range'!r}", again=True)
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if first != asked or last < first or (total is not None and last != total - 1):
        raise FetchError(f"the server was asked for bytes from {asked} on and sent {sent}", again=True)
    if length is not None and length != last - first + 1:
        raise FetchError(f"the server announces {length} bytes for {sent}", again=True)
    if note.total is not None and total is not None and total != note.total:
        raise FetchError(f"the file had {note.total} bytes and now has {total}", again=True)
    etag = str(headers.get("ETag", ""))
    if asked and etag and note.etag and etag != note.etag:
        raise FetchError(f"the file had ETag {note.etag} and now has {etag}", again=True)
    return first, last + 1 if total is None else total


def _refuse_wrong(headers: Message, path: Path, total: int | None, expected: Expected) -> None:
    if headers.get_content_type() in ("text/html", "application/xhtml+xml") and path.suffix not in (".html", ".htm"):
        raise FetchError("the server sent a web page (HTML) instead of the file", again=False)
    encoding = str(headers.get("Content-Encoding", "identity")).strip().lower()
    # Servers commonly label a .gz file itself so; its bytes are the file.
    itself = encoding in ("gzip", "x-gzip") and path.suffix in (".gz", ".tgz")
    if encoding not in ("", "identity") and not itself:
        raise FetchError(
            f"the server sent the file compressed (Content-Encoding: {encoding}), though the plain one was asked for",
            again=False,
        )
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


def _no_data(part: Path, path: Path, expected: Expected) -> str:
    """Say what a file is that came instead of data; empty if it may be data, or is known by a digest."""
    if expected.sha256 or expected.md5:
        return ""
    with part.open("rb") as file:
        head = file.read(_HEAD)
    if not head and expected.bytes != 0:
        return "the server sent an empty file"
    if _PAGE.match(head) and path.suffix not in (".html", ".htm"):
        return "the server sent a web page (HTML) instead of the file"
    if head.startswith(_POINTER):
        return "the server sent a Git LFS pointer instead of the file"
    return ""


class _Pace:
    """The lower bound on the speed of a download."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        self._since = time.monotonic()
        self._bytes = 0

    def check(self, received: int) -> None:
        """Count bytes; refuse if too few came within the last `timeout` seconds."""
        self._bytes += received
        seconds = time.monotonic() - self._since
        if seconds < self._config.timeout:
            return
        if self._bytes < self._config.min_speed * seconds:
            raise FetchError(
                f"the server sent {self._bytes} bytes in {seconds:.0f} seconds; min_speed is "
                f"{self._config.min_speed:g} bytes a second",
                again=True,
            )
        self._since, self._bytes = time.monotonic(), 0


def retry_after(text: str) -> float:
    """Return the seconds that a server's `Retry-After` asks for, a number or a date; 0 if it is neither."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return min(float(text), _PATIENCE)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)
    return min(max(seconds.total_seconds(), 0.0), _PATIENCE)


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
