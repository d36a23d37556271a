"""Where a pretrained encoder lies, a folder or the hub, and what its maker says of it."""

from pathlib import Path
from typing import Any, NamedTuple

from cusa.errors import DataError
from cusa.manifests.origin import split_revision
from cusa.manifests.storage import store
from cusa.models.teachers import hub
from cusa.models.teachers.hub import model_folder

_README_BYTES = 1 << 20


class Place(NamedTuple):
    """A folder's path, or a name of the hub with its revision."""

    name: str
    revision: str

    @property
    def where(self) -> dict[str, Any]:
        """The revision as an argument of `from_pretrained`."""
        return {"revision": self.revision} if self.revision else {}

    def file(self, name: str) -> Path | None:
        """Return a file of the model, brought from the hub where it is not in the cache; None if it has none."""
        if Path(self.name).is_dir():
            path = Path(self.name) / name
            return path if path.is_file() else None
        from transformers.utils.hub import cached_file

        path_in_cache = cached_file(self.name, name, _raise_exceptions_for_missing_entries=False, **self.where)
        return Path(path_in_cache) if path_in_cache else None

    def json(self, name: str) -> dict[str, Any]:
        """Return the content of one of its JSON files; empty if it has none."""
        path = self.file(name)
        return store.read_json(path) if path is not None else {}

    def licence(self) -> str:
        """Return the licence that the head of its README names; empty if it names none."""
        path = self.file("README.md")
        if path is None:
            return ""
        with path.open("rb") as file:
            text = file.read(_README_BYTES).decode("utf-8", "replace")
        if not text.startswith("---"):
            return ""
        head = text.removeprefix("---").partition("\n---")[0]
        values = dict(line.split(":", 1) for line in head.splitlines() if ":" in line and line[:1].isalpha())
        named = values.get("license_name", "") or values.get("license", "")
        return named.strip().strip("\"'")


def locate(name: str, key: str) -> Place:
    """Return where a model lies, before anything is loaded.

    Args:
        name: a folder, or a hub name with `@REVISION` or without.
        key: of the recipe, for messages.

    Raises:
        DataError: if a path leads nowhere, or a hub name is not in the cache and the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return Place(str(path), "")
    if path.exists():
        raise DataError(
            f"{key} is {name!r}, a file. Give a hub name or a folder with config.json and weights; a CLIP checkpoint "
            "becomes one with `cusa export FILE --to hf`.",
            key=key,
            path=path,
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"{key} is {name!r}, and there is no such folder. Check the path.", key=key, path=path)
    plain, revision = split_revision(name)
    if hub.where(name, what=f"{key} is {name!r}").get("local_files_only"):
        return Place(str(model_folder(name)), "")  # what the hub's library would come to after half a minute of trying
    return Place(plain, revision)
