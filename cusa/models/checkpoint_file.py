"""A file of weights by any maker: tensors and plain values alone, running no code from it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cusa.errors import DataError, reason

_LEADING = ("module.", "model.")
"""Prefixes that DistributedDataParallel and Lightning put before every name."""
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put anywhere into a name."""
_LFS = b"version https://git-lfs.github.com/spec/"


class StateDict(NamedTuple):
    """The tensors of a checkpoint by name."""

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...]
    """Sentences on what was changed to read it: prefixes removed from the names."""


def load(path: Path) -> Any:
    """Load what `torch.save` or safetensors wrote.

    Args:
        path: `.safetensors`, or a file of `torch.save`.

    Returns:
        The content, on the CPU: tensors and plain values, nested as they were saved.

    Raises:
        DataError: if the file is missing, damaged, no file of weights, or could run code.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"There is no checkpoint {path}.", path=path)
    refuse_placeholder(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises almost anything
        raise DataError(
            f"{path} cannot be read: {reason(error)} Only tensors and plain values are taken from a file; a pickle "
            "that names other objects could run code. If you trust the file, write it anew once, in an environment of "
            "its own: torch.save(model.state_dict(), 'weights.pt') (for a TorchScript archive of OpenAI: "
            "torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')), and give that file.",
            path=path,
        ) from error


def read(path: Path) -> StateDict:
    """Read a state dict, whatever wrapped the model when it was saved.

    Args:
        path: `.safetensors`, or what `torch.save` wrote: a state dict, or a dict that holds one under `model` or
            `state_dict`, as CUSA's authors, open_clip and Lightning write them.

    Returns:
        The tensors, under names without the prefixes of DistributedDataParallel (`module.`), torch.compile
        (`_orig_mod.`), Lightning (`model.`), FSDP and activation checkpointing.

    Raises:
        DataError: if the file cannot be read, holds no state dict, or two names are equal without their prefixes.
    """
    content = load(path)
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(
            f"{path} holds no state dict (names with tensors), also not under 'model' or 'state_dict'. Write one with "
            "torch.save(model.state_dict(), 'weights.pt').",
            path=path,
        )
    tensors = {str(name): value for name, value in content.items()}
    names, removed = _plain_names(list(tensors))
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{path} has the tensor {double!r} twice, once behind a prefix ({', '.join(removed)}). Keep one of them.",
            path=path,
        )
    remarks = (f"{path.name}: {', '.join(removed)} removed from the names of its tensors.",) if removed else ()
    return StateDict(dict(zip(names, tensors.values(), strict=True)), remarks)


def refuse_placeholder(path: Path) -> None:
    """Refuse a file that stands in the place of weights: a Git LFS pointer, a web page, an empty file.

    Raises:
        DataError: naming what the file is and how to get the weights.
    """
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        raise DataError(f"{path} is empty. Download it again.", path=path)
    if start.startswith(_LFS):
        raise DataError(
            f"{path} is a Git LFS pointer, not the weights that it stands for. Run `git lfs pull` in the repository, "
            "or download the file itself.",
            path=path,
        )
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise DataError(
            f"{path} is a web page, not a file of weights: the address it came from answered with HTML (a login, an "
            "error, or a viewer of the file). Download the raw file.",
            path=path,
        )


def refuse_placeholders(folder: Path) -> None:
    """Do what `refuse_placeholder` does for the files of weights that transformers would take from a folder.

    Others may be pointers: whoever needs the safetensors alone does not fetch the `.bin` beside them.
    """
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        paths = sorted(folder.glob(pattern))
        for path in paths:
            refuse_placeholder(path)
        if paths:
            return


def _plain_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the names without wrappers' prefixes, and these prefixes."""
    removed: list[str] = []
    while True:
        wrappers = dict.fromkeys(match.group() for name in names for match in _WRAPPERS.finditer(name))
        leading = [prefix for prefix in _LEADING if all(name.startswith(prefix) for name in names)]
        if not wrappers and not leading:
            return names, [f"'{prefix}'" for prefix in dict.fromkeys(removed)]
        removed += [*wrappers, *leading[:1]]
        names = [_WRAPPERS.sub("", name) for name in names]
        if leading:
            names = [name.removeprefix(leading[0]) for name in names]
