"""The lists of the authors' release: one row a caption, with the image's path and number."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import json_stream
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import BAD_ROW, Reading, Row, Rows, digests, inside, other_key, text
from cusa.pipeline.readers.splits import default_split


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read the authors' release lists: `[{"image_path": ..., "caption": ..., "image_id": ...}, ...]`.

    One row a caption (or a list of them); rows of one path are one image. The image's key is its file name's stem, or
    the COCO number at its end.

    Args:
        source: a list, or a folder with one for each split (`train.json`, `val.json`, `test.json`).
        images: the folder that `image_path` starts from.
        config: the data set's name, and the split where a file's name has none.

    Raises:
        DataError: if a file is no list of such rows.
    """
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source} holds no JSON lists.", path=source)
    dataset = config.dataset or source.stem.replace(" ", "_")
    for file in files:
        first = next(json_stream.items(file), ("", None))
        if first[0] or not isinstance(first[1], dict):
            raise DataError(f"{file} is no release list: it needs rows of image_path, caption, image_id.", path=file)
    rows = Rows(lambda: (row for file in files for row in _rows(file, images, dataset, config)))
    return Reading(dataset, rows, digests(files[0].parent, files))


def _rows(file: Path, images: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    split = default_split(config, file.stem)
    captions_by_name: dict[str, list[CaptionRecord]] = {}
    for number, (_, row) in enumerate(json_stream.items(file)):
        where = f"{file.name}[{number}]"
        try:
            name = text(row["image_path"], "image_path")
            inside(images, name)
            captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
            records = [CaptionRecord("", text(caption, "caption")) for caption in captions]
            captions_by_name.setdefault(name, []).extend(records)
        except BAD_ROW as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            yield Drop(split, "", where, "caption", "bad-row", f"{what}: {row!r:.200}")
    for name, captions in captions_by_name.items():
        about = (keys.image_key(dataset, _item(name)), split, inside(images, name), name, tuple(captions))
        yield ImageRecord(*about, other_key=other_key(dataset, name))


def _item(name: str) -> str:
    """Return `000000391895` for `COCO_val2014_000000391895.jpg`, else the stem."""
    stem = Path(name).stem
    number: Any = stem.rpartition("_")[2]
    return number if stem.startswith("COCO_") and len(number) == 12 and number.isdigit() else stem
