"""A student's folder: found by its kind, read whole, every key accounted for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models.students import folder as folders


def _write(folder: Path, **card: object) -> Path:
    store.write_json(folder / "student.json", {"kind": "own", "format": folders.FORMAT, **card})
    save_file({"weight": torch.ones(2)}, folder / folders.WEIGHTS)
    return folder


def test_find__takes_a_run_or_a_model_folder_of_the_kind(tmp_path: Path) -> None:
    model = _write(tmp_path / "run/model")
    assert folders.find(str(tmp_path / "run"), "own") == model
    assert folders.find(str(model), "own") == model
    assert folders.find(str(model), "other") is None
    assert folders.find(str(tmp_path), "own") is None
    assert folders.find(str(tmp_path / "nowhere"), "own") is None


def test_read_weights__of_another_format_or_broken(tmp_path: Path) -> None:
    card, state = folders.read_weights(_write(tmp_path / "one", name="x"))
    assert (card["name"], state["weight"].tolist()) == ("x", [1, 1])
    with pytest.raises(DataError, match=rf"student.json has format 7; this version reads {folders.FORMAT}"):
        folders.read_weights(_write(tmp_path / "two", format=7))
    broken = _write(tmp_path / "three")
    (broken / folders.WEIGHTS).write_bytes(b"cut")
    with pytest.raises(DataError, match="three cannot be read as a student"):
        folders.read_weights(broken)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.top = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(3, 1)


@pytest.mark.parametrize(
    ("left_out", "optional", "first"),
    [
        ("head.", "head.", None),
        ("head.", ("top.", "head."), None),
        ("head.", (), "2 keys are missing, the first 'head.bias'"),
        ("head.", "", "2 keys are missing, the first 'head.bias'"),
        ("top.", "head.", "2 keys are missing, the first 'top.bias'"),
    ],
)
def test_load_state__only_what_is_optional_may_be_missing(
    left_out: str, optional: str | tuple[str, ...], first: str | None
) -> None:
    made, module = _Net(), _Net()
    kept = module.head.weight.detach().clone()
    state = {name: value for name, value in made.state_dict().items() if not name.startswith(left_out)}
    if first is not None:
        with pytest.raises(DataError, match=first):
            folders.load_state(module, state, "here", optional=optional)
        return
    folders.load_state(module, state, "here", optional=optional)
    assert torch.equal(module.body.weight, made.body.weight)
    assert torch.equal(module.head.weight, kept), "what is missing stays as it is"


def test_load_state__names_every_problem_and_changes_nothing() -> None:
    module = _Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = _Net().state_dict()
    del state["body.bias"]
    state |= {"body.bias_": torch.zeros(2), "head.weight": torch.zeros(4, 2)}
    with pytest.raises(DataError) as refused:
        folders.load_state(module, state, "here")
    words = str(refused.value)
    assert words.startswith("here does not fit a _Net of these sizes: 1 keys are missing, the first 'body.bias'; ")
    assert "1 are unexpected, the first 'body.bias_'. Did you mean 'body.bias'?" in words
    assert "head.weight is (4, 2), expected (3, 2)" in words
    assert (refused.value.values["missing"], refused.value.values["unexpected"]) == (["body.bias"], ["body.bias_"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
