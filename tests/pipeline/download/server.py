"""A server on this machine that cuts, lies, stalls and loops as a test asks, and the manifest of what it has."""

import io
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cusa.manifests.datasets import Dataset
from cusa.pipeline.config import DownloadConfig

BODY = bytes(range(256)) * 2000  # 512 kB
FAST = DownloadConfig(first_wait=0.0, timeout=0.5, retries=3)


class Server:
    """What the test server does is a function of the path and of how often it was asked for."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.ranges: list[str] = []
        self.files: dict[str, bytes] = {"/plain.bin": BODY}
        self.behaviour: dict[str, Callable[[BaseHTTPRequestHandler, int], None]] = {}
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked[self.path] += 1
                outer.ranges.append(self.headers.get("Range", ""))
                behave = outer.behaviour.get(self.path, outer.give)
                try:
                    behave(self, outer.asked[self.path])
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self.http.server_address[1]}"

    def give(self, handler: BaseHTTPRequestHandler, time_: int, *, cut: int | None = None, etag: str = '"1"') -> None:
        data, status, start = self.files[handler.path], 200, 0
        wanted = handler.headers.get("Range", "")
        if wanted.startswith("bytes=") and handler.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(data) else 416
        handler.send_response(status)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", "0" if status == 416 else str(len(data) - start))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        if status == 416:
            return
        handler.wfile.write(data[start : None if cut is None else start + cut])
        if cut is not None:
            handler.close_connection = True

    def answer(self, handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


def make_zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def make_tgz(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_manifest(server: Server, **more: Any) -> Dataset:
    files = [
        {"path": "images.zip", "urls": [f"{server.root}/images.zip"], "unpack": "."},
        {"path": "notes.tgz", "urls": [f"{server.root}/gone.tgz", f"{server.root}/notes.tgz"], "unpack": "deep"},
        {"path": "plain.bin", "urls": [f"{server.root}/plain.bin"]},
    ]
    server.files["/images.zip"] = make_zip({"pictures/a.jpg": b"A" * 5000, "pictures/b.jpg": b"B" * 7000})
    server.files["/notes.tgz"] = make_tgz({"x/notes.txt": b"notes"})
    server.behaviour["/gone.tgz"] = lambda handler, n: server.answer(handler, 404)
    fields = {
        "name": "mini",
        "title": "Mini",
        "licence": "free",
        "reader": "folder",
        "source": "pictures",
        "files": files,
    }
    return Dataset.model_validate(fields | more)
