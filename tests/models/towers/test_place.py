"""Where a model lies: a path, or the hub, whose absence is said at once."""

import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models.towers.place import locate


def test_locate__a_hub_name_offline() -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=r"'nobody/nothing@v1': no folder .* HF_HUB_OFFLINE is set.*hf download"):
        locate("nobody/nothing@v1", "student.towers.image.name")
    assert time.monotonic() - start < 10  # the hub's library tries for 24 seconds


def test_locate__a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"cannot be reached \(no route to host\)"):
        locate("nobody/nothing", "student.towers.image.name")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_locate__a_path_that_leads_nowhere(name: str) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        locate(name, "student.towers.image.name")


def test_locate__a_file(tmp_path: Path) -> None:
    store.write_text(tmp_path / "weights.pt", "x")
    with pytest.raises(DataError, match=r"a file. Give a hub name or a folder"):
        locate(str(tmp_path / "weights.pt"), "student.towers.image.name")


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: 'my-own'\n---\n", "my-own"),
        ("# no head\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_licence(tmp_path: Path, readme: str, licence: str) -> None:
    assert locate(str(tmp_path), "key").licence() == ""
    store.write_text(tmp_path / "README.md", readme)
    assert locate(str(tmp_path), "key").licence() == licence
