"""What the name of a student stands for (a file of weights, a folder, a model of the hub), and its weights' digest."""

import re
from pathlib import Path
from typing import NamedTuple

from cusa.errors import DataError, nearest
from cusa.manifests.storage import store
from cusa.models.teachers.hub import model_folder

_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_TRANSFORMERS_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class CheckpointFile(NamedTuple):
    """A file of weights, and what says how to read it."""

    path: Path
    architecture: str
    """As the user named it, behind an `@`; empty if not."""
    config: Path | None
    """The `open_clip_config.json` beside it."""


def checkpoint_file(name: str | Path) -> CheckpointFile | None:
    """Return the file of weights that a student's name stands for.

    Args:
        name: `FILE`, `FILE@ARCHITECTURE`, or a folder as open_clip's repositories are, without weights for
            transformers.

    Returns:
        The file; None if the name stands for something else.
    """
    path, architecture = Path(name).expanduser(), ""
    if not path.exists() and "@" in str(name):
        head, _, architecture = str(name).rpartition("@")
        path = Path(head).expanduser()
    if path.is_dir() and not architecture and not any((path / file).is_file() for file in _TRANSFORMERS_FILES):
        path = next((path / file for file in _OPEN_CLIP_FILES if (path / file).is_file()), path)
    if not path.is_file():
        return None
    config = path.parent / _OPEN_CLIP_CONFIG
    belongs = path.name in _OPEN_CLIP_FILES and config.is_file() and not architecture
    return CheckpointFile(path, architecture, config if belongs else None)


def refuse_missing(name: str | Path) -> None:
    """Refuse a model's path that leads nowhere, before a hub is asked for a model of that name.

    Raises:
        DataError: if the name is no name of the hub, or stands among runs.
    """
    path = Path(name).expanduser()
    if path.exists() or checkpoint_file(name) is not None:
        return
    runs = []
    if len(path.parts) > 1 and path.parent.is_dir():
        runs = [str(folder.parent) for folder in sorted(path.parent.glob("*/recipe.json"))]
    if runs:
        raise DataError(f"There is no run {name}. {nearest(str(name), runs)}.", path=path)
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(@[\w./-]+)?", str(name)):
        raise DataError(f"There is no {path}. Give a run, a model folder, a file of weights or a hub name.", path=path)


def weights_digest(name: str | Path) -> str:
    """Return a digest of a student's weights, without loading them.

    Args:
        name: a run, a model folder, a file (with its architecture), or a hub name.

    Returns:
        The digest of the content, and of how it is read; for a hub name, of the commit in the cache, or the name itself
        where there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return store.sha256_folder(path / "model" if (path / "model").is_dir() else path)
    file = checkpoint_file(name)
    if file is not None:
        content = store.sha256_file(file.path)
        config = store.sha256_file(file.config) if file.config is not None else ""
        return store.digest([content, file.architecture, config]) if file.architecture or config else content
    folder = model_folder(str(name))
    return str(name) if folder is None else store.digest([str(name), folder.name])
