"""Where a model is looked for: without a network nobody waits for the hub's library to give up."""

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from cusa.errors import DataError
from cusa.models import student as students
from cusa.models.teachers import hub
from cusa.models.teachers.registry import load_teacher


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let every connection fail, and keep what was tried."""
    tried: list[object] = []

    def refuse(address: object, timeout: float) -> None:
        assert 0 < timeout <= 5
        tried.append(address)
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tried


def test_where__a_folder_is_not_asked_for(no_network: list[object], tmp_path: Path) -> None:
    assert hub.where(str(tmp_path)) == {}
    assert no_network == []


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c"])
def test_where__a_path_is_no_hub_name(no_network: list[object], name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}': there is no such folder"):
        hub.where(name)
    assert no_network == []


def test_where__what_is_in_the_cache_is_taken_from_there(
    no_network: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "model_folder", lambda name: tmp_path)
    assert hub.where("some/model@v1") == {"revision": "v1", "local_files_only": True}
    assert hub.where("some/model") == {"local_files_only": True}


def test_where__a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def close(self) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: Connection())
    assert hub.where("some/model@v1") == {"revision": "v1"}
    assert hub.where("some/model") == {}


def test_a_mistyped_run_is_told_at_once(no_network: list[object]) -> None:
    """`cusa eval runs/scnes` and `cusa search --student runs/scnes` load it so; it has the shape of a hub name."""
    with pytest.raises(
        DataError, match=r"'runs/scnes': no folder of that name is here, .*cannot be reached \(no route"
    ):
        students.load("runs/scnes")
    assert len(no_network) == 1, "asked once"


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_teacher_that_is_nowhere_is_told_at_once(no_network: list[object], modality: str) -> None:
    with pytest.raises(DataError, match=r"'nobody/nothing': no folder of that name is here"):
        load_teacher("nobody/nothing", modality)
    assert len(no_network) == 1
