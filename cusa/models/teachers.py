"""The interface of a frozen uni-modal teacher, and how a name becomes one."""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import store

if TYPE_CHECKING:
    from cusa.models.device import Precision

CATALOGUE = {
    "unicom-vit-b-32": "images; the paper's Unicom, 512 numbers; the authors' file, by --weights or downloaded",
    "unicom-vit-b-32-tokens": "images; its flattened patch tokens, 37,632 numbers: what the paper's figures used",
    "unicom-vit-b-16": "images; Unicom, 768 numbers",
    "unicom-vit-b-16-tokens": "images; its flattened patch tokens, 150,528 numbers",
    "unicom-vit-l-14": "images; Unicom, 768 numbers",
    "unicom-vit-l-14-tokens": "images; its flattened patch tokens, 262,144 numbers",
    "unicom-vit-l-14-336": "images of 336 pixels; Unicom, 768 numbers",
    "unicom-vit-l-14-336-tokens": "images of 336 pixels; its flattened patch tokens, 589,824 numbers",
    "facebook/dinov2-base": "images; like any Hugging Face vision model with a pooled output (DINOv2/v3, MLCD, SigLIP)",
    "all-mpnet-base-v2": "texts; the paper's Sentence-BERT, like any sentence-transformers hub name or folder",
    "module:Class": "images or texts; a Python class of yours with name, modality, width, encode and provenance",
    "offline-gist": "images; colours and edge directions on a grid, no weights: as good as pixels",
    "offline-ngrams": "texts; hashed words and letter groups, no weights: as good as spelling",
    "offline-scenes-image": "images of `scenes`; a small frozen encoder of what is shown, shipped with the package",
    "offline-scenes-text": "texts of `scenes`; a small frozen encoder of what is claimed, shipped with the package",
}
"""Teachers one can name, and what each reads. Features made elsewhere come in by `extract-teachers --import`."""

_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


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


@runtime_checkable
class PreparingTeacher(Protocol):
    """A teacher whose `encode` falls into two halves, so that threads can do the first one ahead of the model."""

    precision: str
    """Numbers that `embed` calculates with: `float32`, `float16` or `bfloat16`."""

    def prepare(self, items: Sequence[Any]) -> Any:
        """Make a batch ready: scale images, tokenise texts. Called from several threads."""
        ...

    def embed(self, prepared: Any, *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned: (n, width) float32 unit rows; in float32 throughout if `exact`."""
        ...


@runtime_checkable
class MeasuringTeacher(Protocol):
    """A teacher whose work on an item grows with its length: batches of equal lengths waste none of it."""

    def lengths(self, items: Sequence[Any]) -> np.ndarray:
        """Return the length of each item, (n,) integers, for example in tokens."""
        ...


LOCAL = "local folder"
"""What stands for a revision where a teacher came from a folder; where the folder lies is nobody else's business."""
IMPORTED = "imported"
"""Likewise, where nobody knows what made the features."""


def teacher_name(name: str) -> str:
    """Return the folder name a teacher's tables get.

    Args:
        name: as the user wrote it: `offline-gist`, `all-mpnet-base-v2`, `sentence-transformers/all-mpnet-base-v2`,
            `mine.module:Class`, or a path. The last part counts; one that says nothing (`model`) takes its parent's
            name along.
    """
    parts = [part for part in re.split(r"[/\\]", name.rstrip("/\\")) if part not in ("", ".", "..")]
    last = parts[-1] if parts else name
    if last in ("model", "weights", "checkpoint") and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)


def load_teacher(name: str, modality: str, *, weights: str = "", precision: "Precision" = "auto") -> Teacher:
    """Load a teacher by name.

    Args:
        name: an `offline-*` or `unicom-*` name, `module:Class`, a Hugging Face vision model (images) or a
            sentence-transformers model (texts) by hub name or folder. `@` and a hub revision may follow a hub name.
        modality: `image` or `text`: what it must read.
        weights: Unicom's file or the folder that holds it; looked for, and else downloaded, when empty.
        precision: numbers of the matrix products, for models that run in torch.

    Raises:
        ConfigError: if no such teacher exists, or it reads the other modality.
        DataError: if its weights are missing or broken.
    """
    teacher = _load(name, modality, weights, precision)
    if teacher.modality != modality:
        raise ConfigError(
            f"Teacher {name!r} reads {teacher.modality}s, not {modality}s. Give it as --{teacher.modality} {name}.",
            teacher=name,
        )
    return teacher


def _load(name: str, modality: str, weights: str, precision: "Precision") -> Teacher:
    if name.startswith("offline-"):
        from cusa.models.offline import load_offline

        return load_offline(name)
    if name.startswith("unicom-"):
        from cusa.models.unicom import load_unicom

        return load_unicom(name, weights=weights, precision=precision)
    if _CLASS.fullmatch(name):
        return _load_class(name)
    if modality == "text":
        from cusa.models.sentence import SentenceTeacher

        return SentenceTeacher(name, precision=precision)
    if "/" not in name and not Path(name).expanduser().is_dir():
        images = [known for known, what in CATALOGUE.items() if what.startswith("images")]
        raise ConfigError(f"There is no image teacher {name!r}. {nearest(name, images)}.", teacher=name)
    from cusa.models.vision import load_vision

    return load_vision(name, precision=precision)


def _load_class(name: str) -> Teacher:
    """Make a teacher of the user's own class, found from the working folder as `python -m` would find it."""
    module, _, wanted = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), wanted)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The teacher {name!r} cannot be imported: {error}. Give module:Class, with the module on the Python path "
            "or in the working folder.",
            teacher=name,
        ) from error
    teacher = found()
    lacking = [part for part in ("name", "modality", "width", "encode", "provenance") if not hasattr(teacher, part)]
    if lacking:
        raise ConfigError(
            f"The class {name!r} is no teacher: it has no {', '.join(lacking)}. See cusa.models.teachers.Teacher.",
            teacher=name,
        )
    return teacher


def split_revision(name: str) -> tuple[str, str]:
    """Split `org/model@revision` into the hub name and the revision; a folder's name is left whole."""
    if Path(name).expanduser().exists():
        return name, ""
    plain, _, revision = name.partition("@")
    return plain, revision


def weights_digest(name: str) -> str:
    """Return the SHA-256 of a teacher's weights without loading them; empty where there are none on this disk.

    Args:
        name: as `load_teacher` takes it. For `module:Class` it is the module's own file that counts.
    """
    from cusa.models.weights_file import UNICOM_FILES

    if (plain := name.removesuffix("-tokens")) in UNICOM_FILES:
        return UNICOM_FILES[plain].sha256
    shipped = Path(__file__).parent / "weights" / f"{name}.safetensors"
    if name in CATALOGUE and shipped.is_file():
        return store.sha256_file(shipped)
    if _CLASS.fullmatch(name):
        return _module_digest(name.partition(":")[0])
    folder = model_folder(name)
    return store.sha256_folder(folder) if folder is not None else ""


def _module_digest(module: str) -> str:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return store.sha256_file(Path(spec.origin)) if spec and spec.origin and Path(spec.origin).is_file() else ""


def model_folder(name: str) -> Path | None:
    """Return the folder a Hugging Face model lies in: its own, or its snapshot in the hub's cache; None without one."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in CATALOGUE and name.startswith("offline-"):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    plain, revision = split_revision(name)
    # sentence-transformers looks short names up under its own organisation.
    for repository in (plain,) if "/" in plain else (f"sentence-transformers/{plain}", plain):
        try:
            found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
        except HFValidationError:
            continue
        if isinstance(found, str):
            return Path(found).parent
    return None


def model_provenance(name: str) -> dict[str, str]:
    """Say which Hugging Face model a loaded teacher is: teacher, revision (the hub's commit), weights_sha256."""
    folder = model_folder(name)
    if Path(name).expanduser().is_dir():
        teacher, revision = teacher_name(name), LOCAL
    else:
        teacher, revision = name, folder.name if folder is not None else "unknown"
    if folder is None:
        raise DataError(f"The files of {name!r} are not in the hub's cache, though it was loaded.", teacher=name)
    return {"teacher": teacher, "revision": revision, "weights_sha256": store.sha256_folder(folder)}
