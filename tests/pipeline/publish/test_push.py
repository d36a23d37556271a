"""Pushing to a stand-in of the hub's API: what arrives is the export, and refusals say what to do."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.ledger import Clock
from cusa.pipeline import publish
from cusa.pipeline.config import PublishConfig
from cusa.pipeline.publish.push import push
from tests.cli.test_cli import cusa
from tests.worlds import make_work


class Hub:
    """The parts of the hub's API that a push needs."""

    def __init__(self) -> None:
        self.token = "hf_right"
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.paths: list[str] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.paths.append(self.path)
                if self.headers.get("Authorization") != f"Bearer {outer.token}":
                    self.answer(401, {"error": "Invalid token"})
                elif outer.status != 200:
                    self.answer(outer.status, {"error": "No"})
                elif self.path == "/api/repos/create":
                    outer.repositories.append(json.loads(body))
                    self.answer(200, {"url": f"{outer.url}/datasets/me/pictures"})
                elif "/preupload/" in self.path:
                    names = [one["path"] for one in json.loads(body)["files"]]
                    answers = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                    self.answer(200, {"files": answers})
                elif "/commit/" in self.path:
                    outer.take(body)
                    self.answer(
                        200,
                        {"commitUrl": f"{outer.url}/datasets/me/pictures/commit/1", "commitOid": "1", "success": True},
                    )
                else:
                    self.answer(200, {})

            def do_GET(self) -> None:
                self.answer(200, {"sha": "0", "id": "me/x", "private": False, "tags": []})

            def answer(self, status: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def take(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.messages.append(line["value"]["summary"])
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", made.token)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.url)  # read when the library is imported
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    work = make_work(folder, images=2, captions=1, splits=("train",))
    publish.run(PublishConfig(workers=1), work=work, to="parquet", out=folder / "out")
    return folder / "out"


def _is_private(repository: dict[str, Any]) -> bool:
    """Tell what the hub was asked to make, in the words of either version of its client."""
    return repository.get("visibility") == "private" or repository.get("private") is True


def test_push__what_arrives_is_the_export(hub: Hub, export: Path) -> None:
    pushed = push(export, "me/pictures", private=True)
    assert pushed.kind == "dataset"
    assert pushed.commit == f"{hub.url}/datasets/me/pictures/commit/1"
    (made,) = hub.repositories
    assert (made["name"], made["organization"], made["type"]) == ("pictures", "me", "dataset")
    assert _is_private(made)
    assert hub.messages == ["Export by cusa"]
    assert pushed.bytes == sum((export / name).stat().st_size for name in pushed.files)
    names = {"README.md", "croissant.json", "data/train-00000-of-00001.parquet"}
    assert hub.files == {name: (export / name).read_bytes() for name in names}


def test_push__only_the_card_and_a_dry_run(hub: Hub, export: Path) -> None:
    assert set(push(export, "me/pictures", card_only=True).files) == {"README.md", "croissant.json"}
    assert set(hub.files) == {"README.md", "croissant.json"}
    hub.files.clear()
    assert push(export, "me/pictures", dry_run=True).commit == ""
    assert not hub.files


def test_push__refusals_say_what_to_do(hub: Hub, export: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(DataError, match="is no finished export"):
        push(tmp_path, "me/pictures")
    for name in ("pictures", "a b/c", "me/.."):
        with pytest.raises(ConfigError, match="--to"):
            push(export, name)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DataError, match=r"HTTP 401\). The token is not valid"):
        push(export, "me/pictures")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="Check the network and HF_ENDPOINT"):
        push(export, "me/pictures")
    for offline in ("1", "true", "On", "YES"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids"):
            push(export, "me/pictures")


def test_command__shows_what_would_be_sent(export: Path) -> None:
    done = cusa("push", export, "--to", "me/pictures", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "data/train-00000-of-00001.parquet" in done.stdout
    assert "dataset me/pictures; nothing was sent" in done.stdout


def _export(folder: Path, *, stage: str = "export", **parameters: Any) -> Path:
    """Write what some export leaves."""
    folder.mkdir()
    for name in ("README.md", "weights.bin"):
        (folder / name).write_bytes(name.encode())
    outputs = [folder / name for name in ("README.md", "weights.bin")]
    fields: dict[str, Any] = {"stage": stage, "inputs": {}, "parameters": parameters, "outputs": outputs, "counts": {}}
    Clock().finish(folder / "ledger.json", **fields)
    return folder


def test_push__a_model_is_one_and_is_sent_with_one_s_own_words(hub: Hub, tmp_path: Path) -> None:
    folder = _export(tmp_path / "onnx", to="onnx")
    (folder / "mine.txt").write_text("not of the export")
    assert push(folder, "me/model", dry_run=True).kind == "model"
    assert hub.paths == []
    pushed = push(folder, "me/model", message="A better one")
    assert (pushed.kind, hub.messages) == ("model", ["A better one"])
    assert pushed.files == {"README.md": 9, "weights.bin": 11}
    assert set(hub.files) == {"README.md", "weights.bin"}
    assert [path for path in hub.paths if "/commit/" in path] == ["/api/models/me/model/commit/main"]
    assert not _is_private(hub.repositories[0])
    assert set(push(folder, "me/model", card_only=True).files) == {"README.md"}
    assert hub.messages[-1] == "Card by cusa"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"to": "tensorboard"}, "is an export for tensorboard, a view without a card"),
        ({}, "is an export for None, a view"),
        ({"to": "onnx", "stage": "train"}, "is no finished export"),
    ],
)
def test_push__what_is_no_export_with_a_card_is_refused(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        push(_export(tmp_path / "out", **more), "me/model", dry_run=True)


def test_push__a_file_that_was_changed_since_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    folder = _export(tmp_path / "out", to="hf")
    (folder / "weights.bin").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"weights\.bin was changed after `cusa export` wrote it"):
        push(folder, "me/model")
    assert hub.files == {}


def test_push__what_the_hub_answers_and_a_missing_token(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hub.status, words in ((403, "The token may not write there"), (400, "Try again later")):
        with pytest.raises(DataError, match=rf"The hub refused me/pictures \(HTTP {hub.status}\)\. {words}"):
            push(export, "me/pictures")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="There is no token for the hub"):
        push(export, "me/pictures")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        *(("me/pictures", True), ("a-b/c_d.e", True), ("x/" + "y" * 96, True), ("x" * 96 + "/y", True)),
        *(("x/" + "y" * 97, False), ("me/a..b", False), ("me/a--b", False), ("-me/a", False), ("me/.a", False)),
        *(("me/a/b", False), ("/a", False), ("me/", False), ("mé/a", False), ("me/a\n", False)),
    ],
)
def test_push__names_of_repositories(export: Path, name: str, good: bool) -> None:
    if good:
        assert push(export, name, dry_run=True).repository == name
    else:
        with pytest.raises(ConfigError, match="cannot be a repository"):
            push(export, name, dry_run=True)
