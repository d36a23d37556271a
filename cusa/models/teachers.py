"""The interface of a frozen uni-modal teacher, and how a name becomes one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cusa.errors import ConfigError


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
    from cusa.models.offline import OFFLINE_TEACHERS, load_offline

    if name.startswith("offline-"):
        teacher = load_offline(name)
    elif modality == "text":
        from cusa.models.sentence import SentenceTeacher

        teacher = SentenceTeacher(name)
    else:
        raise ConfigError(
            f"There is no image teacher {name!r}. Allowed: {', '.join(t for t in OFFLINE_TEACHERS)}.", teacher=name
        )
    if teacher.modality != modality:
        raise ConfigError(
            f"Teacher {name!r} reads {teacher.modality}s, not {modality}s. Give it as --{teacher.modality} {name}.",
            teacher=name,
        )
    return teacher


def weights_digest(name: str) -> str:
    """Return the SHA-256 of a teacher's weights without loading them; `""` for a hub name not yet downloaded."""
    from cusa.manifests import store

    path = Path(name)
    return store.sha256_folder(path) if path.is_dir() else ""
