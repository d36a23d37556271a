"""From a data set's own files to image records: one function a layout, every row kept or dropped with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import keys, store
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord


@dataclass(frozen=True)
class Reading:
    """What a reader found."""

    dataset: str
    images: list[ImageRecord]
    drops: list[Drop]
    files: Mapping[str, str]
    """The annotation files that were read: name -> sha256."""
    truth: Mapping[str, Path] = field(default_factory=dict)
    """Split -> a table of every pair known to match (`image_key`, `caption_key`), where the data set comes with one."""


def read(layout: str, source: Path, images: Path) -> Reading:
    """Read a data set.

    Args:
        layout: one of `READERS`.
        source: the annotation file.
        images: the folder that the annotation's paths start from.

    Raises:
        ConfigError: if there is no such layout.
        DataError: if the annotation cannot be read at all.
    """
    if layout not in READERS:
        raise ConfigError(f"There is no layout {layout!r}. {nearest(layout, READERS)}", layout=layout)
    if not images.is_dir():
        raise DataError(f"The image folder {images} does not exist. Give it with --images.", path=images)
    return READERS[layout](source, images)


def read_karpathy(source: Path, images: Path) -> Reading:
    """Read Karpathy's JSON (COCO, Flickr30K, Flickr8K, `scenes`).

    Splits are named as in the file, `restval` joins `train` as every paper does. An image's key is its COCO id where
    there is one, else its file name's stem. Tables `truth-<split>.parquet` beside the file come along.

    Args:
        source: for example `dataset_coco.json`.
        images: the folder above `filepath`, or the images' own folder where `filepath` is absent.

    Raises:
        DataError: if the file is no JSON of this layout.
    """
    content = store.read_json(source)
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(
            f"{source} is no Karpathy file: it needs a list 'images' with filename, split and sentences.", path=source
        )
    dataset = str(content.get("dataset") or source.stem.removeprefix("dataset_"))
    records, drops = [], []
    seen: dict[str, str] = {}
    for number, row in enumerate(rows):
        where = f"{source.name} images[{number}]"
        try:
            record, refused = _karpathy_row(row, dataset, images)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            drops.append(Drop(_split_of(row), "", where, "image", "bad-row", what))
            drops += [
                Drop(_split_of(row), "", where, "caption", "bad-row", f"its image was dropped: {sentence!r:.200}")
                for sentence in _sentences(row)
            ]
            continue
        drops += refused
        if record.key in seen:
            detail = f"{seen[record.key]} has it already"
            drops.append(Drop(record.split, record.key, record.source, "image", "duplicate-key", detail))
            drops += [
                Drop(record.split, record.key, record.source, "caption", "duplicate-key", f"{caption.text[:200]!r}")
                for caption in record.captions
            ]
            continue
        seen[record.key] = record.source
        records.append(record)
    truth = {path.stem.removeprefix("truth-"): path for path in sorted(source.parent.glob("truth-*.parquet"))}
    files = [source, *truth.values()]
    return Reading(dataset, records, drops, {path.name: store.sha256_file(path) for path in files}, truth)


def _karpathy_row(row: Any, dataset: str, images: Path) -> tuple[ImageRecord, list[Drop]]:
    filename = _text(row["filename"], "filename")
    relative = Path(_text(row.get("filepath", ""), "filepath")) / filename
    if relative.is_absolute() or ".." in relative.parts or "\0" in filename:
        raise ValueError(f"the path {str(relative)!r} leaves the image folder")
    key = keys.image_key(dataset, f"{int(row['cocoid']):012d}" if "cocoid" in row else Path(filename).stem)
    split, source = _split_of(row), relative.as_posix()
    captions, drops = [], []
    for sentence in _sentences(row):
        try:
            captions.append(CaptionRecord(str(sentence.get("sentid", "")), _text(sentence["raw"], "raw")))
        except (KeyError, TypeError, AttributeError):
            drops.append(Drop(split, key, source, "caption", "bad-row", f"no text in {sentence!r:.200}"))
    return ImageRecord(key, split, images / relative, source, tuple(captions)), drops


def _sentences(row: Any) -> list[Any]:
    sentences = row.get("sentences") if isinstance(row, dict) else None
    return sentences if isinstance(sentences, list) else []


def _split_of(row: Any) -> str:
    split = row.get("split") if isinstance(row, dict) else None
    if not isinstance(split, str) or not split.replace("-", "").replace("_", "").isalnum():
        return "train"
    return {"restval": "train"}.get(split, split)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} is {value!r}, not a text")
    return value


READERS: dict[str, Callable[[Path, Path], Reading]] = {"karpathy": read_karpathy}
"""Layouts by name, as `cusa shard` takes them."""
