"""A published weights file: the user's copy, a cached one, or a verified download from a server that may lie."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models import weights_file
from cusa.models.weights_file import WeightsFile

CONTENT = bytes(range(256)) * 9000  # 2.3 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Server(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write({"/cut": CONTENT[: 1 << 20], "/other": CONTENT[::-1]}.get(self.path, CONTENT))

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    _Server.asked.clear()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights_file.FOLDER_VARIABLE, str(tmp_path / "kept"))


def test_find__downloads_once_and_verifies(address: str, tmp_path: Path) -> None:
    file = WeightsFile("net.pt", f"{address}/net.pt", SHA256)
    assert weights_file.find(file) == tmp_path / "kept/net.pt"
    assert weights_file.find(file).read_bytes() == CONTENT
    assert _Server.asked == ["/net.pt"]
    (tmp_path / "kept/net.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="is not the published net.pt"):
        weights_file.find(file)


@pytest.mark.parametrize(
    ("path", "words"),
    [("other", "gave a file with SHA-256"), ("cut", "gave a file with SHA-256"), ("missing", "404")],
)
def test_find__a_bad_download_leaves_nothing_and_names_the_way_out(
    address: str, tmp_path: Path, path: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        weights_file.find(WeightsFile("net.pt", f"{address}/{path}", SHA256))
    assert "--weights FILE" in str(caught.value)
    assert not list((tmp_path / "kept").glob("*"))
    assert not list((tmp_path / "kept").glob(f"{store.TEMPORARY}*"))


def test_find__a_given_file_or_folder_is_used_without_network(tmp_path: Path) -> None:
    file = WeightsFile("net.pt", "http://127.0.0.1:9/none", SHA256)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/net.pt").write_bytes(CONTENT)
    assert weights_file.find(file, str(tmp_path / "mine")) == tmp_path / "mine/net.pt"
    (tmp_path / "renamed").write_bytes(CONTENT)
    assert weights_file.find(file, str(tmp_path / "renamed")) == tmp_path / "renamed"
    with pytest.raises(DataError, match="cannot be downloaded"):
        weights_file.find(file)


def test_weights_folder__is_the_named_one_or_one_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(weights_file.FOLDER_VARIABLE, raising=False)
    assert weights_file.weights_folder() == tmp_path / ".cache/cusa/weights"
    monkeypatch.setenv(weights_file.FOLDER_VARIABLE, "")
    assert weights_file.weights_folder() == tmp_path / ".cache/cusa/weights"
    monkeypatch.setenv(weights_file.FOLDER_VARIABLE, "~/kept")
    assert weights_file.weights_folder() == tmp_path / "kept"
