"""Where a model is looked for: without a network nobody waits for the hub's library to give up."""

import socket
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from cusa.errors import DataError
from cusa.manifests.storage import store
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


def test_where__a_folder_at_home(no_network: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert hub.where("~/model") == {}
    assert hub.model_folder("~/model") == tmp_path / "model"
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


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_where__a_proxy_knows_the_way(no_network: list[object], monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://proxy:3128")
    assert hub.where("some/model@v1") == {"revision": "v1"}
    assert no_network == []


@pytest.mark.parametrize(
    ("endpoint", "address"), [("https://hub.example", ("hub.example", 443)), ("http://mirror:8080", ("mirror", 8080))]
)
def test_where__the_hub_is_asked_at_its_own_address(
    no_network: list[object], monkeypatch: pytest.MonkeyPatch, endpoint: str, address: tuple[str, int]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(DataError, match=rf"the hub \({address[0]}\) cannot be reached"):
        hub.where("some/model")
    assert no_network == [address]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Stand for the hub's cache, which holds the models of `tmp_path/REPOSITORY/REVISION`; keep what was asked."""
    asked: list[tuple[str, object]] = []

    def find(repository: str, file: str, revision: str | None = None) -> str | None:
        asked.append((repository, revision))
        path = tmp_path / repository / (revision or "main") / file
        return str(path) if path.is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", find)
    return asked


def _hold(folder: Path, weights: str) -> Path:
    store.write_text(folder / "config.json", "{}")
    store.write_text(folder / "model.safetensors", weights)
    return folder


def test_model_folder__of_short_and_whole_names_and_revisions(cache: list[tuple[str, object]], tmp_path: Path) -> None:
    words = _hold(tmp_path / "sentence-transformers/words/main", "1")
    plain, old = _hold(tmp_path / "plain/main", "2"), _hold(tmp_path / "some/model/v1", "3")
    assert hub.model_folder("words") == words
    assert hub.model_folder("plain") == plain, "where sentence-transformers has none of that name"
    assert list(dict.fromkeys(cache)) == [
        ("sentence-transformers/words", None),
        ("sentence-transformers/plain", None),
        ("plain", None),
    ]
    assert hub.model_folder("some/model@v1") == old
    assert hub.model_folder("some/model") is None
    assert hub.model_folder(str(words)) == words
    assert hub.model_folder("offline-gist") is None
    assert list(dict.fromkeys(cache))[3:] == [("some/model", "v1"), ("some/model", None)]


def test_model_folder__of_an_older_sentence_transformers_model(cache: list[tuple[str, object]], tmp_path: Path) -> None:
    store.write_text(tmp_path / "some/clip/main/modules.json", "[]")
    assert hub.model_folder("some/clip") == tmp_path / "some/clip/main"


def test_model_provenance__names_the_commit_or_the_folder(cache: list[tuple[str, object]], tmp_path: Path) -> None:
    held = _hold(tmp_path / "some/model/v1", "3")
    digest = store.sha256_folder(held)
    assert hub.model_provenance("some/model@v1") == {
        **{"teacher": "some/model@v1", "revision": "v1", "weights_sha256": digest}
    }
    local = _hold(tmp_path / "mine", "3")
    assert hub.model_provenance(str(local)) == {
        **{"teacher": "mine", "revision": "local folder", "weights_sha256": digest}
    }
    with pytest.raises(DataError, match="'nobody/nothing' are not in the hub's cache"):
        hub.model_provenance("nobody/nothing")


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
