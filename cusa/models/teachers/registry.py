"""From a teacher's name to the teacher."""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cusa.errors import ConfigError, nearest
from cusa.manifests import tables
from cusa.manifests.origin import IMPORTED, LOCAL, read_origin, teacher_name
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.teachers import hub
from cusa.models.teachers.base import Teacher
from cusa.models.teachers.catalogue import CATALOGUE
from cusa.models.teachers.hub import model_folder

if TYPE_CHECKING:
    from cusa.models.device import Precision

_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_teacher(name: str, modality: str, *, weights: str = "", precision: "Precision" = "auto") -> Teacher:
    """Load a teacher by name.

    Args:
        name: an `offline-*` or `unicom-*` name, `module:Class`, a Hugging Face vision model (images) or a
            sentence-transformers model (texts; images if it reads them) by hub name or folder. `@` and a hub revision
            may follow a hub name.
        modality: `image` or `text`: what it must read.
        weights: Unicom's file or the folder that holds it; searched for, then downloaded, when empty.
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
        from cusa.models.teachers.offline import load_offline

        return load_offline(name)
    if name.startswith("unicom-"):
        from cusa.models.teachers.unicom import load_unicom

        return load_unicom(name, weights=weights, precision=precision)
    if _CLASS.fullmatch(name):
        return _load_class(name)
    if modality == "text":
        from cusa.models.teachers.sentence import SentenceTeacher

        return SentenceTeacher(name, precision=precision)
    if "/" not in name and not Path(name).expanduser().is_dir():
        images = [known for known, what in CATALOGUE.items() if what.startswith("images")]
        raise ConfigError(f"There is no image teacher {name!r}. {nearest(name, images)}.", teacher=name)
    if hub.is_of_sentence_transformers(name, hub.where(name, what=f"The image teacher {name!r}")):
        from cusa.models.teachers.sentence_image import SentenceImageTeacher

        return SentenceImageTeacher(name, precision=precision)
    from cusa.models.teachers.vision import load_vision

    return load_vision(name, precision=precision)


def _load_class(name: str) -> Teacher:
    """Make a teacher of the user's own class, found from the working folder as `python -m` would find it."""
    module, _, wanted = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        teacher_class = getattr(importlib.import_module(module), wanted)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The teacher {name!r} cannot be imported: {error}. Give module:Class, with the module on the Python path "
            "or in the working folder.",
            teacher=name,
        ) from error
    teacher: Teacher = teacher_class()
    lacking = [part for part in ("name", "modality", "width", "encode", "provenance") if not hasattr(teacher, part)]
    if lacking:
        raise ConfigError(
            f"The class {name!r} is no teacher: it has no {', '.join(lacking)}. See cusa.models.teachers.base.Teacher.",
            teacher=name,
        )
    return teacher


class ResolvedTeacher(NamedTuple):
    """What a user's word for a teacher stands for in one split."""

    table: str
    """The folder of its tables, whether they are there or not."""
    loads: str
    """What `load_teacher` takes; empty where the tables are there and nothing on this machine loads their teacher."""
    weights_sha256: str
    """Of what it loads; where that is not on this disk, of the tables; empty if neither is."""


def resolve(split: Split, teacher: str, modality: str, *, name: str = "") -> ResolvedTeacher:
    """Say which tables a teacher has, and what loads it.

    Args:
        split: the split.
        teacher: tables' name, folder, hub name, `module:Class`; see `tables.find_teacher`. Tables remember what they
            were made from, so their name is enough.
        modality: `image` or `text`.
        name: what the tables are called; empty = found, else by the teacher's own name.

    Raises:
        DataError: if several tables were made with a folder's weights and none has its name.
    """
    table = "" if name else tables.find_teacher(split, modality, teacher)
    recorded = tables.provenance(split, table) if table else {}
    if not table or recorded["revision"] == IMPORTED:
        return ResolvedTeacher(table or teacher_name(name or teacher), teacher, weights_digest(teacher))
    loads = _what_loads(split, teacher, table, recorded)
    return ResolvedTeacher(table, loads, (loads and weights_digest(loads)) or recorded["weights_sha256"])


def _what_loads(split: Split, teacher: str, table: str, recorded: Mapping[str, str]) -> str:
    """Return what loads the teacher of tables that are there; empty if it came from a folder that is not there."""
    origin, is_folder = read_origin(split.folder / "teachers" / table), Path(teacher).expanduser().is_dir()
    if teacher != table and (is_folder or weights_digest(teacher)):
        return teacher  # it lies on this disk, so the name stands for itself
    if recorded["revision"] != LOCAL:
        return origin if origin and teacher == table else teacher
    if origin and Path(origin).is_dir():
        return origin
    here = weights_digest(teacher)
    return teacher if is_folder or (here and here == recorded["weights_sha256"]) else ""


def weights_digest(name: str) -> str:
    """Return the SHA-256 of a teacher's weights without loading them; empty where there are none on this disk.

    Args:
        name: as `load_teacher` takes it. For `module:Class` it is the module's own file that counts.
    """
    from cusa.models.weights_file import UNICOM_FILES

    if (plain := name.removesuffix("-tokens")) in UNICOM_FILES:
        return UNICOM_FILES[plain].sha256
    shipped = Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
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
