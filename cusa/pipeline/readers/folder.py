"""A folder of images, each with a text file of its name beside it."""

import json
from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, split_name

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
SPLITS = frozenset({"train", "restval", "val", "dev", "validation", "test"})


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a folder of images with sidecars: `a.jpg` with `a.txt` (a caption a line) or `a.json` (a list of captions).

    Folders below named `train`, `val` or `test` are splits; everything else goes to the given split, else
    to `train`. Hidden files are left out.

    Args:
        source: the folder.
        images: likewise; the one that is read.
        config: the data set's name (default: the folder's), and the split.

    Raises:
        DataError: if there is no such folder or no image in it.
    """
    if not source.is_dir():
        raise DataError(f"{source} is no folder. Name the folder of the images.", path=source)
    files = _files(source)
    if not any(file.suffix.lower() in IMAGES for file in files):
        raise DataError(f"{source} holds no image (looked for {', '.join(sorted(IMAGES))}).", path=source)
    sidecars = [[_name(source, file), store.sha256_file(file)] for file in files if file.suffix in (".txt", ".json")]
    dataset = config.dataset or source.name
    return Reading(dataset, Rows(lambda: _rows(source, dataset, config)), {"sidecars": store.digest(sidecars)})


def _files(source: Path) -> list[Path]:
    files = (file for file in source.rglob("*") if file.is_file())
    return sorted((f for f in files if not any(part.startswith(".") for part in f.relative_to(source).parts)), key=str)


def _name(source: Path, file: Path) -> str:
    return file.relative_to(source).as_posix()


def _rows(source: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    files = _files(source)
    used = set()
    for file in files:
        if file.suffix.lower() not in IMAGES:
            continue
        name = _name(source, file)
        split = _split(name, config)
        captions: list[CaptionRecord] = []
        for sidecar in (file.with_suffix(".txt"), file.with_suffix(".json")):
            used.add(sidecar)
            try:
                captions += [CaptionRecord("", text) for text in _texts(sidecar)]
            except (ValueError, TypeError) as error:
                yield Drop(split, "", _name(source, sidecar), "caption", "bad-row", str(error))
        yield ImageRecord(keys.image_key(dataset, name.removesuffix(file.suffix)), split, file, name, tuple(captions))
    for file in files:
        if file.suffix in (".txt", ".json") and file not in used:
            name = _name(source, file)
            yield Drop(_split(name, config), "", name, "caption", "missing", "no image of this name lies beside it")


def _split(name: str, config: ReadConfig) -> str:
    first = name.split("/")[0]
    return split_name(first if first in SPLITS and "/" in name else config.split)


def _texts(sidecar: Path) -> list[str]:
    """Return the captions of a sidecar; none if there is none.

    Raises:
        ValueError, TypeError: if it is there and holds no captions.
    """
    if not sidecar.is_file():
        return []
    content = sidecar.read_bytes().decode("utf-8", "surrogateescape")
    if sidecar.suffix == ".txt":
        return [line for line in content.split("\n") if line.strip()]
    value = json.loads(content)
    if isinstance(value, dict):
        value = value.get("captions", value.get("caption"))
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"no list of captions: {content[:200]!r}")
    return texts
