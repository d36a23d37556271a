"""Files of weights as their makers and the world leave them: wrapped, pickled, cut, or something else by that name."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cusa.errors import DataError
from cusa.models import checkpoint_file

STATE = {"visual.proj": torch.ones(2, 3), "logit_scale": torch.tensor(4.6)}


class _Trap:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


@pytest.mark.parametrize("kind", ["pickle", "trap", "cut", "nothing", "list", "numbers", "archive"])
def test_files_that_are_no_state_dict_are_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(_Trap()))
    elif kind == "trap":
        torch.save({"model": _Trap()}, path)
    elif kind == "cut":
        torch.save({"x": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "numbers":
        torch.save({"state_dict": {"x": 1.0}}, path)
    elif kind == "archive":
        path = tmp_path / "cut.safetensors"
        save_file({"x": torch.zeros(9)}, path)
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(
        DataError, match="no checkpoint" if kind == "nothing" else "state dict|cannot be read"
    ) as caught:
        checkpoint_file.read(path)
    assert "\x1b" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
        (b"\xef\xbb\xbf  <HTML lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model-00001-of-00002.safetensors"])
def test_what_stands_in_the_place_of_weights_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        checkpoint_file.read(tmp_path / name)
    with pytest.raises(DataError, match=words):
        checkpoint_file.refuse_placeholders(tmp_path)


def test_refuse_placeholders__only_what_is_loaded(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    (tmp_path / "pytorch_model.bin").write_bytes(pointer)
    (tmp_path / "optimizer.pt").write_bytes(b"")
    with pytest.raises(DataError, match="pytorch_model.bin is a Git LFS pointer"):
        checkpoint_file.refuse_placeholders(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    checkpoint_file.refuse_placeholders(tmp_path)
    checkpoint_file.refuse_placeholders(tmp_path / "no folder")


@pytest.mark.parametrize(
    ("prefix", "removed"),
    [
        ("", ()),
        ("module.", ("'module.'",)),
        ("_orig_mod.", ("'_orig_mod.'",)),
        ("model.", ("'model.'",)),
        ("model._orig_mod.", ("'_orig_mod.'", "'model.'")),
        ("module._orig_mod.module.", ("'_orig_mod.'", "'module.'")),
        ("_fsdp_wrapped_module.", ("'_fsdp_wrapped_module.'",)),
    ],
)
@pytest.mark.parametrize("holder", ["", "model", "state_dict"])
def test_prefixes_of_wrappers_are_removed_and_named(
    tmp_path: Path, holder: str, prefix: str, removed: tuple[str, ...]
) -> None:
    state = {f"{prefix}{name}": value for name, value in STATE.items()}
    torch.save({holder: state, "epoch": 3} if holder else state, tmp_path / "weights.pt")
    tensors, remarks = checkpoint_file.read(tmp_path / "weights.pt")
    assert set(tensors) == set(STATE)
    assert all(torch.equal(tensors[name], value) for name, value in STATE.items())
    assert len(remarks) == bool(removed)
    assert all(word in remarks[0] for word in removed)


def test_a_compiled_part_and_a_name_that_begins_like_a_wrapper(tmp_path: Path) -> None:
    names = ("visual._orig_mod.weight", "visual._orig_mod.bias", "modular.weight", "modular.bias")
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "weights.pt")
    tensors, _ = checkpoint_file.read(tmp_path / "weights.pt")
    assert set(tensors) == {"visual.weight", "visual.bias", "modular.weight", "modular.bias"}
    mixed = {"model.weight": torch.zeros(1), "loss.scale": torch.zeros(1)}
    torch.save(mixed, tmp_path / "mixed.pt")
    assert set(checkpoint_file.read(tmp_path / "mixed.pt").tensors) == set(mixed)  # only where every name has it


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"_orig_mod.weight": torch.zeros(1), "weight": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match="'weight' twice"):
        checkpoint_file.read(tmp_path / "weights.pt")
