"""A work folder read again: all of it, or the part that a list of keys names."""

from collections.abc import Collection, Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import schemas, store
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.samples import Split, splits
from cusa.pipeline.readers.reading import Reading, Row, Rows


def read_subset(work: Path, keys: Collection[str] | None = None) -> Reading:
    """Read the shards of a work folder, images by their byte range, splits as they are.

    Args:
        work: a work folder.
        keys: image or caption keys to keep; a caption's key keeps its image with all its captions. None keeps all.

    Returns:
        The reading; a key that the folder does not hold is a drop.

    Raises:
        DataError: if the folder is no work folder, or no keys are given.
    """
    wanted = None if keys is None else {key.partition("#")[0] for key in keys}
    if wanted is not None and not wanted:
        raise DataError("The subset names no key. Give a file with one key a line, or a query that finds some.")
    names = splits(work)
    files = {f"{name}/{file}": store.sha256_file(work / name / file) for name in names for file in ("shards.parquet",)}
    if wanted is not None:
        files["keys"] = store.digest(sorted(wanted))
    first = store.read_table(work / names[0] / "samples.parquet", columns=["key"])["key"].to_pylist()[:1]
    dataset = first[0].partition("/")[0] if first else work.name
    truth = {name: path for name in names if (path := work / name / "truth.parquet").is_file()}
    return Reading(dataset, Rows(lambda: _rows(work, names, wanted)), files, truth)


def _rows(work: Path, names: list[str], wanted: set[str] | None) -> Iterator[Row]:
    found = set()
    for name in names:
        split = Split(work, name)
        samples = split.samples.select(schemas.SAMPLES.names).to_pylist()
        captions: dict[str, list[CaptionRecord]] = {}
        for row in split.captions.to_pylist():
            if wanted is None or row["key"] in wanted:
                captions.setdefault(row["key"], []).append(CaptionRecord(row["caption_id"], row["text"]))
        for row in samples:
            if wanted is not None and row["key"] not in wanted:
                continue
            found.add(row["key"])
            texts = tuple(captions.get(row["key"], ()))
            tar = work / name / row["shard"] if row["ext"] else None
            offset, length = row["image_offset"], row["image_bytes"]
            array: tuple[int, ...] = ()
            if row["ext"] == "npy":  # its numbers stand behind a header
                array = (row["height"], row["width"])
                offset, length = offset + length - 4 * row["height"] * row["width"], 4 * row["height"] * row["width"]
            about = (row["key"], name, tar, row["source"], texts, row["label"], row["role"])
            yield ImageRecord(*about, offset=offset, length=length, array=array)
    for key in sorted((wanted or set()) - found):
        yield Drop(names[0], key, str(work), "image", "missing", "the work folder has no such key")
