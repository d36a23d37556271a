"""Names, revisions and files of teachers that come from a hub or a folder."""

import hashlib
import re
from pathlib import Path

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models.teachers.catalogue import CATALOGUE

LOCAL = "local folder"
"""The revision of a teacher that came from a folder; the folder's path is private and is not written."""


IMPORTED = "imported"
"""The revision of features that were made elsewhere."""
LONGEST_NAME = 150
"""Characters of a folder's name; file systems take 255 bytes, and other files add words of their own to it."""


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


def split_revision(name: str) -> tuple[str, str]:
    """Split `org/model@revision` into the hub name and the revision; a folder's name is left whole."""
    if Path(name).expanduser().exists():
        return name, ""
    plain, _, revision = name.partition("@")
    return plain, revision


def teacher_source(name: str) -> str:
    """Return what tells a teacher from others of the same folder name: its hub name, or a digest of its folder's path.

    The path itself is private and is not written.
    """
    path = Path(name).expanduser()
    if path.exists():
        return f"folder {hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    return split_revision(name)[0]


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
            config_path = try_to_load_from_cache(repository, "config.json", revision=revision or None)
        except HFValidationError:
            continue
        if isinstance(config_path, str):
            return Path(config_path).parent
    return None


def model_provenance(name: str) -> dict[str, str]:
    """Return which Hugging Face model a loaded teacher is: teacher, revision (the hub's commit), weights_sha256."""
    folder = model_folder(name)
    if Path(name).expanduser().is_dir():
        teacher, revision = teacher_name(name), LOCAL
    else:
        teacher, revision = name, folder.name if folder is not None else "unknown"
    if folder is None:
        raise DataError(f"The files of {name!r} are not in the hub's cache, though it was loaded.", teacher=name)
    return {"teacher": teacher, "revision": revision, "weights_sha256": store.sha256_folder(folder)}
