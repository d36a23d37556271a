"""A review as a process of its own, and a plain client: no browser, no test client of the server's makers."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cusa.manifests.samples import Split
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from tests.pipeline.audited import make_taught


def make_audited(folder: Path, **world: Any) -> Path:
    """Draw, shard, embed, index and audit a world of one split; return the work folder."""
    work = make_taught(folder, **world)
    audit.run(AuditConfig(neighbours=4, gallery=3), split=Split(work, "train"))
    return work


class Client:
    """Asks as a browser on this machine does."""

    def __init__(self, port: int, reviewer: str = "ada", tab: str = "tab-1") -> None:
        self.port, self.reviewer, self.tab = port, reviewer, tab

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def next(self, where: str = "") -> dict[str, Any]:
        fields = urlencode({"reviewer": self.reviewer, "tab": self.tab, "where": where})
        status, _, body = self.ask("GET", f"/next?{fields}")
        assert status == 200, body
        return json.loads(body)

    def post(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"reviewer": self.reviewer, "tab": self.tab, **fields}).encode()
        headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}"}
        status, _, answer = self.ask("POST", "/verdicts", body, headers)
        return status, json.loads(answer)

    def judge(self, candidate: dict[str, Any], verdict: str, id: str, **more: Any) -> dict[str, Any]:
        pair = {name: candidate[name] for name in ("image_key", "caption_key")}
        status, answer = self.post(**pair, verdict=verdict, id=id, **more)
        assert status == 200, answer
        return answer

    def image(self, key: str) -> tuple[int, dict[str, str], bytes]:
        return self.ask("GET", f"/image?key={quote(key, safe='')}")


class Served:
    """A running `cusa review`."""

    def __init__(self, work: Path, *options: str) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "cusa", "review", str(work), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if not match:
            line += self.process.communicate()[1]
            raise AssertionError(line)
        self.port = int(match[1])

    def stop(self) -> tuple[int, str, str]:
        self.process.terminate()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def served(work: Path, *options: str) -> Iterator[Served]:
    """Serve a work folder until the block ends."""
    running = Served(work, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


@contextmanager
def in_thread(room: Any, **fields: Any) -> Iterator[int]:
    """Serve a room in a thread of this process, which is much faster to start; give the port."""
    import uvicorn

    from cusa.pipeline.review.server import application, listen

    listening = listen(0)
    config = uvicorn.Config(
        application(room, **fields), lifespan="off", ws="none", log_config=None, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
