"""Files and revisions of teachers that come from a hub or a folder."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cusa.errors import DataError
from cusa.manifests.origin import LOCAL, split_revision, teacher_name
from cusa.manifests.storage import store
from cusa.models.teachers.catalogue import CATALOGUE

_SECONDS = 5  # to connect to the hub


def where(name: str, *, what: str = "") -> dict[str, Any]:
    """Say how a library finds a model, before it asks: without a network it would try for a minute, and then fail.

    Args:
        name: a folder, or a hub name with `@REVISION` or without.
        what: how a message begins; the name if empty.

    Returns:
        `revision` and, where the hub cannot be asked, `local_files_only`, as arguments of `from_pretrained`.

    Raises:
        DataError: if it is no folder, not in the cache, and the hub cannot be asked.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return {}
    plain, revision = split_revision(name)
    if path.is_absolute() or name.startswith((".", "~")) or plain.count("/") > 1:
        raise DataError(f"{what or repr(name)}: there is no such folder. Check the path.", name=name)
    arguments: dict[str, Any] = {"revision": revision} if revision else {}
    refusal = _unreachable()
    if not refusal:
        return arguments
    if model_folder(name) is not None:
        return {**arguments, "local_files_only": True}
    raise DataError(
        f"{what or repr(name)}: no folder of that name is here, it is not in the cache of the hub's models, and "
        f"{refusal}. Check the path, give a local folder, or bring the model where there is a network: `hf download "
        f"{plain}`.",
        name=name,
    )


def _unreachable() -> str:
    """Return why the hub cannot be asked; empty if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""  # the proxy knows the way, not this machine
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=_SECONDS).close()
    except OSError as error:
        return f"the hub ({address.hostname}) cannot be reached ({error})"
    return ""


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
        for file in (
            "config.json",
            "modules.json",
        ):  # an older sentence-transformers model has its config in a module's
            try:
                config_path = try_to_load_from_cache(repository, file, revision=revision or None)
            except HFValidationError:
                continue
            if isinstance(config_path, str):
                return Path(config_path).parent
    return None


def is_of_sentence_transformers(name: str, arguments: Mapping[str, Any]) -> bool:
    """Tell whether a model is one of sentence-transformers: it has a modules.json.

    Args:
        name: a folder, or a hub name with `@REVISION` or without.
        arguments: what `where` returned of it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return (path / "modules.json").is_file()
    from transformers.utils.hub import cached_file

    plain = split_revision(name)[0]
    return cached_file(plain, "modules.json", _raise_exceptions_for_missing_entries=False, **arguments) is not None


def image_processor(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model's images are prepared, as its folder says it; empty where it does not.

    Args:
        name: a folder, or a hub name without revision.
        arguments: what `where` returned of it.

    Returns:
        The content of `preprocessor_config.json`, or the part of `processor_config.json` that speaks of images: where
        transformers 5 writes it for models of images and texts.
    """
    fields = _json(name, "preprocessor_config.json", arguments)
    return fields or dict(_json(name, "processor_config.json", arguments).get("image_processor") or {})


def _json(name: str, file: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if Path(name).is_dir():
        path = Path(name) / file
        return store.read_json(path) if path.is_file() else {}
    from transformers.utils.hub import cached_file

    in_cache = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **arguments)
    return store.read_json(Path(in_cache)) if in_cache else {}


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
