"""COCO's own annotation files: a list of images and a list of captions that name them by id."""

from collections.abc import Iterator
from pathlib import Path

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
    group,
    inside,
    refused_row,
    text,
)
from cusa.pipeline.readers.splits import default_split


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read COCO's `captions_*.json`: one file, or every one in a folder.

    A file's split is the one in its name (`captions_val2014.json`: val). Images lie in the given folder, or in the
    folder of that name below it (`val2014`).

    Args:
        source: an annotation file, or the folder `annotations`.
        images: the folder of the images, or the one above `train2014` and `val2014`.
        config: the data set's name (default `coco`), and the split where a file's name has none.

    Raises:
        DataError: if there is no such file, or it has no list of annotations.
    """
    files = sorted(source.glob("captions_*.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no captions_*.json.", path=source)
    dataset = config.dataset or "coco"
    for file in files:
        if not any(member == "annotations" for member, _ in json_stream.items(file)):
            raise DataError(f"{file} is no COCO caption file: it needs lists 'images' and 'annotations'.", path=file)
    root = files[0].parent
    return Reading(
        dataset,
        Rows(lambda: (row for file in files for row in _rows(file, images, dataset, config))),
        digests(root, files),
    )


def _rows(file: Path, images: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    split = default_split(config, file.stem)
    below = images / file.stem.removeprefix("captions_")
    folder = below if below.is_dir() else images
    pairs = []
    for member, row in json_stream.items(file):
        if member != "annotations":
            continue
        try:
            pairs.append(
                (str(int(row["image_id"])), CaptionRecord(as_text(row["id"]), text(row["caption"], "caption")))
            )
        except BAD_ROW as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            yield Drop(split, "", file.name, "caption", "bad-row", f"{what}: {row!r:.200}")
    captions = group(pairs)
    number = 0
    for member, row in json_stream.items(file):
        if member != "images":
            continue
        own: list[CaptionRecord] = []
        try:
            image_id = int(row["id"])
            own = captions.pop(str(image_id), [])
            name = text(row["file_name"], "file_name")
            key = keys.image_key(dataset, f"{image_id:012d}")
            yield ImageRecord(key, split, inside(folder, name), f"{folder.name}/{name}", tuple(own))
        except BAD_ROW as error:
            yield from refused_row(split, f"{file.name} images[{number}]", error, [c.text for c in own])
        number += 1
    for image, lost in captions.items():
        for caption in lost:
            detail = f"no image {image} in the list; {caption.text[:200]!r}"
            yield Drop(split, "", f"{file.name} annotation {caption.caption_id}", "caption", "bad-row", detail)
