"""The review over HTTP, on this machine alone: one page, its pictures, and a few answers in JSON."""

import contextlib
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa.errors import BusyError, ConfigError, CusaError, DataError
from cusa.manifests import lock, pages
from cusa.manifests.judgements import pair_judgements, verdicts
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import is_remote
from cusa.manifests.terminal import printable
from cusa.pipeline.review.queue import CANDIDATES, OWN_PAIRS, audited
from cusa.pipeline.review.room import Room
from cusa.pipeline.review.sample import SampledPairs

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
PORT = 8321
_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Hosts that a browser on this machine may have asked for; any other is a page that made its name point here."""
_LONGEST_BODY = 16_384


@dataclass(frozen=True)
class Questions:
    """What people are asked about."""

    where: str = ""
    """The filter that the page starts with, in SQL."""
    votes: int = 1
    """How many people are asked about each pair."""
    limit: int = 20_000
    """Candidates a queue holds at most."""
    own_pairs: bool = False
    """Whether the data set's own pairs are asked about, those that `cusa audit --pairs` doubts first."""
    sample: Path | None = None
    """A table of pairs (`schemas.JUDGED_SAMPLE`) that are asked about instead of the audit's candidates."""


@dataclass(frozen=True)
class Reviewed:
    """What a session of reviewing came to."""

    verdicts: Path | None
    """The table, or None where nobody judged."""
    pairs: int
    """Pairs of the split that are judged, earlier sessions' included."""
    positive: int
    notes: tuple[str, ...]


def run(
    work: Path,
    *,
    split: str = "",
    questions: Questions = Questions(),
    port: int = PORT,
    reviewer: str = "",
    on_ready: Callable[[str], None] = lambda url: None,
) -> Reviewed:
    """Serve the review of a split until it is stopped (Ctrl-C).

    Args:
        work: the work folder.
        split: which; the only one that was audited if empty.
        questions: what is asked, and how many people.
        port: on this machine; 0 = any free one.
        reviewer: the name that the page starts with.
        on_ready: called with the page's address once it answers.

    Raises:
        ConfigError: if the port is taken, the filter is wrong, or the extra is not installed.
        DataError: if nothing was audited, the split is being reviewed already, or verdicts cannot be written.
        StaleError: if the candidates are of another state of the split.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigError(f"The review needs its extra ({error}). Run `pip install 'cusa[review]'`.") from error

    if is_remote(work):
        raise ConfigError(f"Verdicts are kept on this machine; copy {work} here first.", work=str(work))
    source = OWN_PAIRS if questions.own_pairs else CANDIDATES
    there = audited(work, splits(work), source)
    if not split and len(there) != 1:
        made_by = f"cusa audit {work}{source.option}"
        say = f"Name one of them with --split: {', '.join(there)}." if there else f"Run `{made_by}`."
        raise DataError(f"{work} has {len(there)} audited splits. {say}", work=work)
    opened = Split(work, split or there[0])
    with contextlib.closing(listen(port)) as listening, _alone(opened), contextlib.ExitStack() as stack:
        sample = None if questions.sample is None else SampledPairs(opened, questions.sample)
        room = Room(
            opened,
            votes=questions.votes,
            limit=questions.limit,
            sample=sample,
            own_pairs=questions.own_pairs,
        )
        stack.callback(room.close)
        room.candidates.queue(questions.where)
        taken = listening.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                application(room, reviewer=reviewer, where=questions.where),
                lifespan="off",
                ws="none",
                loop="asyncio",
                http="h11",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        on_ready(f"http://{HOST}:{taken}/")
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listening])
        torn = room.journal.repaired
    table = room.folder / verdicts.TABLE
    judgements = pair_judgements.read(opened, folder=room.folder)
    notes = judgements.notes()
    if torn:
        notes += (f"A verdict that an earlier session was killed while writing was cut off: {torn[:80]!r}.",)
    every = judgements.judgements
    return Reviewed(table if table.is_file() else None, len(every), sum(one.positive for one in every), notes)


@contextlib.contextmanager
def _alone(split: Split) -> Iterator[None]:
    """Be the only review of a split: two do not see which candidates the other shows, and ask for too many votes.

    Raises:
        DataError: if there is another one.
    """
    try:
        with lock.holding(split.folder / verdicts.FOLDER / ".review" / store.LOCK):
            yield
    except BusyError as error:
        raise DataError(
            f"{split.folder} is reviewed already, by {error.values['holder']}. Open the page of that review, which "
            "several people may use at once, or end it first.",
            split=split.name,
        ) from error


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Raises:
        ConfigError: if the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(
            f"Port {port} cannot be used ({error}). Another review may be running: open http://{HOST}:{port}/, or "
            "choose another --port (0 = any free one).",
            key="port",
        ) from error
    return listening


def application(room: Room, *, reviewer: str = "", where: str = "") -> "Starlette":
    """Return the ASGI application.

    Args:
        room: what it serves.
        reviewer: the name that the page starts with.
        where: the filter that the page starts with.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    start = {"work": room.split.work.resolve().name, "split": room.split.name, "reviewer": reviewer, "where": where}
    start["kind"] = "candidates" if room.doubts is None else "pairs"

    async def index(request: "Request") -> "Response":
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        body = pages.render("pipeline/review/page.html.j2", nonce=nonce, start=start)
        return HTMLResponse(body, headers={"Content-Security-Policy": policy})

    async def next_(request: "Request") -> "Response":
        fields = {name: request.query_params.get(name, "") for name in ("reviewer", "tab", "where")}
        return JSONResponse(await run_in_threadpool(room.next, **fields))

    async def judge(request: "Request") -> "Response":
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "Send application/json."}, status_code=415)
        fields = _verdict(await request.body())
        if "chooses" in fields:
            if fields.pop("verdict") != "no match" or "undoes" in fields:
                raise ConfigError("A caption is chosen where the own one is no match.", key="chooses")
            return JSONResponse(await run_in_threadpool(room.choose, **fields))
        return JSONResponse(await run_in_threadpool(room.judge, **fields))

    async def image(request: "Request") -> "Response":
        data, kind = await run_in_threadpool(room.image, request.query_params.get("key", ""))
        return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=600"})

    async def say(request: "Request", error: Exception) -> "Response":
        status = 400 if isinstance(error, ConfigError) else 404 if request.url.path == "/image" else 500
        return JSONResponse({"error": printable(str(error))}, status_code=status)

    return Starlette(
        routes=[
            Route("/", index, methods=["GET"]),
            Route("/next", next_, methods=["GET"]),
            Route("/image", image, methods=["GET"]),
            Route("/verdicts", judge, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard)],
        exception_handlers={CusaError: say},
        max_body_size=_LONGEST_BODY,
    )


def _verdict(body: bytes) -> dict[str, Any]:
    """Read what the page posts.

    Raises:
        ConfigError: if it is something else.
    """
    names = {"id", "image_key", "caption_key", "verdict", "reviewer", "tab"}
    try:
        content = json.loads(body)
        fields = {name: content[name] for name in names}
        fields |= {name: content[name] for name in ("where", "undoes", "chooses") if name in content}
        if not all(isinstance(value, str) for value in fields.values()):
            raise TypeError("all are texts")
        for value in fields.values():
            value.encode()  # half of a surrogate pair is no text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"That is no verdict: {', '.join(sorted(names))} ({error}).") from error
    return fields


class _Guard:
    """Lets in only pages of this very server, opened on this machine, and says to browsers what is not allowed.

    A page of another origin can send requests here but must not be answered: its `Origin` tells. A name that was made
    to point at this machine after the page was loaded (DNS rebinding) has the page's own origin: the `Host` tells.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            return
        if why := _refused(Headers(scope=scope), scope["method"], scope["path"]):
            await JSONResponse({"error": why}, status_code=403)(scope, receive, send)
            return

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"x-frame-options", b"DENY"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cross-origin-resource-policy", b"same-origin"),
                    (b"cross-origin-opener-policy", b"same-origin"),
                ]
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self._app(scope, receive, sealed)


def _refused(headers: Any, method: str, path: str) -> str:
    """Say why a request is not answered; empty if it is."""
    host = headers.get("host", "")
    name, colon, port = host.rpartition(":")
    if (name if colon and port.isdigit() else host).lower() not in _NAMES:
        return f"This page is for a browser on this machine: http://{HOST}, not {host[:80]!r}."
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"A page of {origin[:80]!r} may not ask here."
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") and (method, path) != ("GET", "/"):
        return "A page of another site may not ask here."
    return ""


__all__ = ["HOST", "PORT", "Questions", "Reviewed", "application", "run"]
