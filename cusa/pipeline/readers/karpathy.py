"""Karpathy's JSON: one object with every image, its split and its sentences."""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import json_stream
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.captions import as_text
from cusa.pipeline.readers.reading import (
    BAD_ROW,
    Reading,
    Row,
    Rows,
    digests,
    inside,
    other_key,
    refused_row,
    text,
)
from cusa.pipeline.readers.splits import RowSplits


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read Karpathy's JSON (COCO, Flickr30K, Flickr8K, `scenes`).

    Splits are named as in the file, `restval` joins `train` as every paper does; a row that names an unknown one is an
    error. An image's key is its COCO id where there is one, else its file name's stem, or its path where another image
    has the same. Tables `truth-<split>.parquet` beside the file come along.

    Args:
        source: for example `dataset_coco.json`.
        images: the folder above `filepath`, or the images' own folder where `filepath` is absent.
        config: the data set's name, where the file has none.

    Raises:
        DataError: if the file is no JSON of this layout, or (when its rows are read) names a split that is not known.
    """
    dataset = config.dataset or _name(source) or source.stem.removeprefix("dataset_")
    truth = {path.stem.removeprefix("truth-"): path for path in sorted(source.parent.glob("truth-*.parquet"))}
    files = digests(source.parent, [source, *truth.values()])
    return Reading(dataset, Rows(lambda: _rows(source, dataset, images, RowSplits(source, config))), files, truth)


def _name(source: Path) -> str:
    """Return the data set's name in the file: mostly its last member, which is read without reading the rest."""
    name, has_images = json_stream.last_text(source, "dataset"), False
    if name:
        return name
    for member, value in json_stream.items(source):
        has_images = has_images or member == "images"
        if member == "dataset" and value:
            name = str(value)
    if not has_images:
        raise _no_karpathy(source)
    return name


def _no_karpathy(source: Path) -> DataError:
    return DataError(
        f"{source} is no Karpathy file: it needs a list 'images' with filename, split and sentences.", path=source
    )


def _rows(source: Path, dataset: str, images: Path, splits: RowSplits) -> Iterator[Row]:
    number, has_images = 0, False
    for member, row in json_stream.items(source):
        if member != "images":
            continue
        has_images = True
        split = splits.of(row.get("split") if isinstance(row, dict) else None)
        if split:  # else the file is refused as a whole, once every unknown split is seen
            try:
                record, refused = _record(row, dataset, images, split)
            except BAD_ROW as error:
                yield from refused_row(split, f"{source.name} images[{number}]", error, _sentences(row))
            else:
                yield record
                yield from refused
        number += 1
    if not has_images:
        raise _no_karpathy(source)
    splits.check()


def _record(row: Any, dataset: str, images: Path, split: str) -> tuple[ImageRecord, list[Drop]]:
    filename = text(row["filename"], "filename")
    folder = text(row.get("filepath", ""), "filepath")
    source = posixpath.join(folder, filename)
    if row.get("cocoid") is not None:
        key, other = keys.image_key(dataset, f"{int(row['cocoid']):012d}"), ""
    else:
        key, other = keys.image_key(dataset, Path(filename).stem), other_key(dataset, source)
    path = inside(images, source)
    captions, drops = [], []
    for sentence in _sentences(row):
        try:
            captions.append(CaptionRecord(as_text(sentence.get("sentid")), text(sentence["raw"], "raw")))
        except (KeyError, TypeError, AttributeError):
            drops.append(Drop(split, key, source, "caption", "bad-row", f"no text in {sentence!r:.200}"))
    return ImageRecord(key, split, path, source, tuple(captions), other_key=other), drops


def _sentences(row: Any) -> list[Any]:
    sentences = row.get("sentences") if isinstance(row, dict) else None
    return sentences if isinstance(sentences, list) else []
