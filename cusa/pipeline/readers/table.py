"""A table of your own: CSV, TSV, Parquet or JSONL with one row a caption or one row an image."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError, nearest
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import (
    BAD_ROW,
    Reading,
    Row,
    Rows,
    digests,
    inside,
    lines,
    named_split,
    split_name,
    text,
)

KINDS = {".csv": ",", ".tsv": "\t", ".parquet": "", ".jsonl": ""}


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a CSV, TSV, Parquet or JSONL table with columns for image and caption, and perhaps split, label and id.

    Rows of the same image are one image with several captions; a caption may also be a list (a JSON list in CSV).

    Args:
        source: the table; its kind is its extension.
        images: the folder that the image column starts from.
        config: the columns' names, the data set's name, and the split where no column has it.

    Raises:
        DataError: if the kind is unknown, the table cannot be read, or it lacks the image or caption column.
    """
    if source.suffix.lower() not in KINDS:
        raise DataError(
            f"{source} is of no known kind of table. {nearest(source.suffix, KINDS)}. Rename it, or convert it.",
            path=source,
        )
    columns = _columns(source)
    for option, name in (("--image-column", config.image_column), ("--caption-column", config.caption_column)):
        if name not in columns:
            raise DataError(
                f"{source} has no column {name!r}; name the one it has with {option}. {nearest(name, columns)}.",
                path=source,
            )
    dataset = config.dataset or source.stem
    return Reading(dataset, Rows(lambda: _rows(source, images, dataset, config)), digests(source.parent, [source]))


@dataclass
class _Image:
    split: str
    label: str
    item: str
    captions: list[CaptionRecord] = field(default_factory=list)


def _rows(source: Path, images: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    default = split_name(config.split or named_split(source.stem))
    images_by_name: dict[str, _Image] = {}
    for where, row in _read(source):
        split = split_name(row.get(config.split_column), default) if isinstance(row, Mapping) else default
        try:
            name = text(row[config.image_column], config.image_column)
            inside(images, name)
            label, item = (str(row.get(column) or "") for column in (config.label_column, config.id_column))
            image = _Image(split, label, item or name.removesuffix(Path(name).suffix))
            keys.image_key(dataset, image.item)
            captions = [CaptionRecord("", text(caption, config.caption_column)) for caption in _captions(row, config)]
        except BAD_ROW as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            yield Drop(split, "", where, "caption", "bad-row", f"{what}: {row!r:.200}")
            continue
        first = images_by_name.setdefault(name, image)
        if (first.split, first.label, first.item) != (image.split, image.label, image.item):
            for caption in captions:
                detail = f"{name} had another split, label or id in an earlier row; {caption.text[:200]!r}"
                yield Drop(split, "", where, "caption", "bad-row", detail)
            continue
        first.captions += captions
    for name, image in images_by_name.items():
        key = keys.image_key(dataset, image.item)
        yield ImageRecord(key, image.split, inside(images, name), name, tuple(image.captions), image.label)


def _captions(row: Mapping[str, Any], config: ReadConfig) -> list[Any]:
    value = row[config.caption_column]
    if isinstance(value, str) and value.startswith('["'):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return [value]
    return value if isinstance(value, list) else [value]


def _columns(source: Path) -> list[str]:
    kind = source.suffix.lower()
    if kind == ".parquet":
        try:
            with source.open("rb") as file:
                return [str(name) for name in pq.read_schema(file).names]
        except FileNotFoundError:
            raise DataError(f"{source} does not exist. Check the path.", path=source) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{source} is no readable Parquet table: {error}. Restore it.", path=source) from error
    if kind == ".jsonl":
        first = next((row for _, row in _read(source) if isinstance(row, dict)), {})
        return list(first)
    header = next(lines(source), (0, ""))[1].removeprefix("\ufeff")
    return next(csv.reader([header], delimiter=KINDS[kind]), [])


def _read(source: Path) -> Iterator[tuple[str, Any]]:
    """Give each row with the words for where it stands; a row that cannot be read comes as it is."""
    kind = source.suffix.lower()
    if kind == ".parquet":
        with source.open("rb") as file:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    yield f"{source.name} row {number}", row
                    number += 1
    elif kind == ".jsonl":
        for number, line in lines(source):
            if line.strip():
                try:
                    yield f"{source.name}:{number}", json.loads(line)
                except json.JSONDecodeError:
                    yield f"{source.name}:{number}", line
    else:
        csv.field_size_limit(1 << 24)  # a caption of 100 kB is a caption
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, delimiter=KINDS[kind])
            for row in reader:
                yield f"{source.name}:{reader.line_num}", row
