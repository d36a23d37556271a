"""Files and revisions of teachers that come from a hub or a folder."""

from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.origin import LOCAL, split_revision, teacher_name
from cusa.manifests.storage import store
from cusa.models.teachers.catalogue import CATALOGUE


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
