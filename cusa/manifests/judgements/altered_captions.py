"""SugarCrepe's and RoCOCO's files: true captions of COCO's images beside altered ones that are not true of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

Whose = Literal["sugarcrepe", "rococo"]

SUGARCREPE = (
    *("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"),
    *("add_ent", "replace_ent", "swap_ent"),  # as the repository calls objects since its later version
)
"""SugarCrepe's files: `KIND.json`, an object whose values have `filename`, `caption` and `negative_caption`."""

ROCOCO = ("rand_voca", "same_concept", "diff_concept", "danger")
"""RoCOCO's files: `KIND.json`, a list of `image` and `caption`: an image's true captions, then as many altered ones."""

KINDS: dict[Whose, tuple[str, ...]] = {"sugarcrepe": SUGARCREPE, "rococo": ROCOCO}
"""Whose files there are, and their kinds."""

TITLES = {
    "add_obj": "an object added",
    "add_ent": "an entity added",
    "add_att": "an attribute added",
    "replace_obj": "an object replaced",
    "replace_ent": "an entity replaced",
    "replace_att": "an attribute replaced",
    "replace_rel": "a relation replaced",
    "swap_obj": "objects exchanged",
    "swap_ent": "entities exchanged",
    "swap_att": "attributes exchanged",
    "rand_voca": "a random word",
    "same_concept": "a word of the same concept",
    "diff_concept": "a word of another concept",
    "danger": "a dangerous word",
}
"""Kind of file -> for people."""


class Entry(NamedTuple):
    """An entry of a file."""

    kind: str
    """Of the file."""
    coco_id: int
    """Of the image."""
    true: tuple[str, ...]
    """Captions that are true of it."""
    false: tuple[str, ...]
    """Altered ones."""


@dataclass(frozen=True)
class AlteredCaptions:
    """One folder's files.

    Attributes:
        folder: of the files.
        whose: `sugarcrepe` or `rococo`.
    """

    folder: Path
    whose: Whose

    @property
    def files(self) -> dict[str, Path]:
        """The files that are there, by kind."""
        return _files(self.folder, self.whose)

    @cached_property
    def entries(self) -> list[Entry]:
        """Every entry of every file.

        Raises:
            DataError: if a file is broken, naming the entry.
        """
        read = {"sugarcrepe": _sugarcrepe, "rococo": _rococo}[self.whose]
        return [one for kind, path in self.files.items() for one in read(kind, path)]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name."""
        return {path.name: store.sha256_file(path) for path in self.files.values()}

    def located(self, split: Split) -> list[tuple[int, Entry]]:
        """Return the entries whose image the split has, each with its image row."""
        row = split.coco_ids.image_row()
        return [(row[one.coco_id], one) for one in self.entries if one.coco_id in row]


def recognise(folder: Path) -> Whose | None:
    """Return whose files a folder holds; None if it holds none of them."""
    return next((whose for whose in KINDS if _files(folder, whose)), None)


def _files(folder: Path, whose: Whose) -> dict[str, Path]:
    return {kind: path for kind in KINDS[whose] if (path := folder / f"{kind}.json").is_file()}


def _sugarcrepe(kind: str, path: Path) -> list[Entry]:
    content = store.read_json(path)
    if not isinstance(content, dict):
        raise _broken(path, "is no JSON object of entries", "SugarCrepe")
    entries = []
    for name, entry in content.items():
        texts = [_text(entry, part) for part in ("filename", "caption", "negative_caption")]
        number = keys.coco_image_id(texts[0].rpartition(".")[0])
        if not all(texts) or number < 0:
            raise _broken(path, f"entry {name!r} has no filename of COCO, caption and negative_caption", "SugarCrepe")
        entries.append(Entry(kind, number, (texts[1],), (texts[2],)))
    return entries


def _rococo(kind: str, path: Path) -> list[Entry]:
    content = store.read_json(path)
    if not isinstance(content, list):
        raise _broken(path, "is no JSON list of images", "RoCOCO")
    entries = []
    for place, entry in enumerate(content):
        number = keys.coco_image_id(_text(entry, "image").rpartition(".")[0])
        captions = entry.get("caption") if isinstance(entry, Mapping) else None
        if number < 0 or not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
            raise _broken(path, f"entry {place} has no image of COCO with a list of captions", "RoCOCO")
        # As the benchmark's own evaluation: the second half is altered where there are ten, all but six of eleven.
        true = {10: 5, 11: 6}.get(len(captions), len(captions))
        entries.append(Entry(kind, number, tuple(captions[:true]), tuple(captions[true:])))
    return entries


def _text(entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    return value if isinstance(value, str) else ""


def _broken(path: Path, what: str, whose: str) -> DataError:
    return DataError(f"{path} {what}. Restore {whose}'s file.", path=path)
