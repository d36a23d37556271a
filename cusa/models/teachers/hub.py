"""Names, revisions and files of teachers that come from a hub or a folder."""

import re
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models.teachers.catalogue import CATALOGUE

LOCAL = "local folder"
"""The revision of a teacher that came from a folder; the folder's path is private and is not written."""


IMPORTED = "imported"
"""The revision of features that were made elsewhere."""


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


def split_revision(name: str) -> tuple[str, str]:
    """Split `org/model@revision` into the hub name and the revision; a folder's name is left whole."""
    if Path(name).expanduser().exists():
        return name, ""
    plain, _, revision = name.partition("@")
    return plain, revision


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
