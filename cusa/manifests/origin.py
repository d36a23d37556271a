"""What a teacher is called on disk, and where its tables came from."""

import os
import re
from pathlib import Path

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store

LONGEST_NAME = 150
"""Characters of a folder's name; file systems take 255 bytes, and other files add words of their own to it."""

ORIGIN = "origin.json"
"""File in a teacher's folder: what loads the teacher. It belongs to no digest, as a model's folder may move."""

LOCAL = "local folder"
"""The revision of a teacher that came from a folder."""
IMPORTED = "imported"
"""The revision, and the origin, of features that were made elsewhere."""


def teacher_name(name: str) -> str:
    """Return the folder name a teacher's tables get.

    Args:
        name: as the user wrote it: `offline-gist`, `all-mpnet-base-v2`, `sentence-transformers/all-mpnet-base-v2`,
            `mine.module:Class`, or a path. The last part counts; one that says nothing (`model`) takes its parent's
            name along. `.` and `..` are called what those folders are called.

    Raises:
        ConfigError: if that is no name for a folder: empty, hidden, or longer than `LONGEST_NAME`.
    """
    separators = r"[/\\]"
    if re.split(separators, name.rstrip("/\\"))[-1] in ("", ".", ".."):
        name = str(Path(name).expanduser().resolve())
    parts = [part for part in re.split(separators, name) if part not in ("", ".", "..")]
    last = parts[-1] if parts else ""
    if last in ("model", "weights", "checkpoint") and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    folder = re.sub(r"[^A-Za-z0-9._-]+", "_", last)
    if not folder or folder.startswith(".") or len(folder) > LONGEST_NAME:
        raise ConfigError(
            f"The model name {name!r} gives no folder name: it needs 1 to {LONGEST_NAME} characters and must not begin "
            "with a dot. Give the model's folder another name, or the path of a link to it.",
            name=name,
        )
    return folder


def name_of_one_modality(teacher: str, modality: str) -> str:
    """Return what tables are called of a teacher of images and texts that gives both: `NAME-image`, `NAME-text`."""
    return f"{teacher_name(teacher)}-{modality}"


def split_revision(name: str) -> tuple[str, str]:
    """Split `org/model@revision` into the hub name and the revision; a folder's name is left whole."""
    if Path(name).expanduser().exists():
        return name, ""
    plain, _, revision = name.partition("@")
    return plain, revision


def origin_of(teacher: str) -> str:
    """Return what a teacher's tables remember of it: a folder's whole path, else the name as the user wrote it."""
    path = Path(teacher).expanduser()
    return os.path.abspath(path) if path.is_dir() else teacher  # a link keeps its name


def read_origin(folder: Path) -> str:
    """Return where the tables in a teacher's folder came from; empty where nobody wrote it down."""
    path = folder / ORIGIN
    if not path.is_file():
        return ""
    try:
        teacher = store.read_json(path).get("teacher", "")
    except (DataError, AttributeError):
        return ""  # a hint that is broken is none
    return teacher if isinstance(teacher, str) else ""


def write_origin(folder: Path, origin: str) -> None:
    """Write down where the tables in a teacher's folder came from."""
    store.write_json(folder / ORIGIN, {"teacher": origin})


def is_same_origin(one: str, other: str) -> bool:
    """Tell whether two origins are the same teacher's, whatever the revision; what is not known is no other."""
    return not one or not other or split_revision(one)[0] == split_revision(other)[0]
