"""The interface of a frozen uni-modal teacher, and how a name becomes one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cusa.errors import ConfigError, nearest
from cusa.manifests import store

CATALOGUE = {
    "offline-gist": "images; colours and edge directions on a grid, no weights: as good as pixels",
    "offline-ngrams": "texts; hashed words and letter groups, no weights: as good as spelling",
    "offline-scenes-image": "images of `scenes`; a small frozen encoder of what is shown, shipped with the package",
    "offline-scenes-text": "texts of `scenes`; a small frozen encoder of what is claimed, shipped with the package",
    "all-mpnet-base-v2": "texts; the paper's Sentence-BERT, like any sentence-transformers hub name or folder",
}
"""Teachers one can name, and what each reads."""


class Teacher(Protocol):
    """A frozen model that turns images or texts into unit vectors."""

    name: str
    """A folder's name: letters, digits, `.`, `_` and `-`."""
    modality: str
    """`image` or `text`."""
    width: int
    """Numbers an embedding."""

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed PIL images (RGB) or texts: (n, width) float32, every row of length 1."""
        ...

    def provenance(self) -> dict[str, str]:
        """Say what made the vectors: teacher, revision, weights_sha256 (`none` without weights), preprocessing."""
        ...


def teacher_name(name: str) -> str:
    """Return the folder name a teacher's tables get.

    Args:
        name: as the user wrote it: `offline-gist`, `all-mpnet-base-v2`, `sentence-transformers/all-mpnet-base-v2`, or a
            path. The last part counts; one that says nothing (`model`) takes its parent's name along.
    """
    parts = [part for part in re.split(r"[/\\]", name.rstrip("/\\")) if part not in ("", ".", "..")]
    last = parts[-1] if parts else name
    if last in ("model", "weights", "checkpoint") and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)


def load_teacher(name: str, modality: str) -> Teacher:
    """Load a teacher by name.

    Args:
        name: an `offline-*` name; or, for texts, any sentence-transformers model by hub name or folder.
        modality: `image` or `text`: what it must read.

    Raises:
        ConfigError: if no such teacher exists, or it reads the other modality.
    """
    from cusa.models.offline import load_offline

    if name.startswith("offline-"):
        teacher = load_offline(name)
    elif modality == "text":
        from cusa.models.sentence import SentenceTeacher

        teacher = SentenceTeacher(name)
    else:
        images = [known for known, what in CATALOGUE.items() if what.startswith("images")]
        raise ConfigError(f"There is no image teacher {name!r}. {nearest(name, images)}.", teacher=name)
    if teacher.modality != modality:
        raise ConfigError(
            f"Teacher {name!r} reads {teacher.modality}s, not {modality}s. Give it as --{teacher.modality} {name}.",
            teacher=name,
        )
    return teacher


def weights_digest(name: str) -> str:
    """Return the SHA-256 of a teacher's weights without loading them; empty where there are none on this disk.

    Args:
        name: as `load_teacher` takes it.
    """
    shipped = Path(__file__).parent / "weights" / f"{name}.safetensors"
    if name in CATALOGUE and shipped.is_file():
        return store.sha256_file(shipped)
    path = Path(name).expanduser()
    return store.sha256_folder(path) if path.is_dir() else ""
