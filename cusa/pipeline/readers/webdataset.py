"""WebDataset tars as others write them, img2dataset among them: images are taken out of the tar by their byte range."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import BAD_ROW, Reading, Row, Rows, digests, named_split, split_name

_IMAGES = ("jpg", "jpeg", "png", "webp")
_OURS = re.compile(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,80}")


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read WebDataset tars: `KEY.jpg` with `KEY.txt` (a caption) or `KEY.json` (`caption`, or `captions`).

    A tar's split is the one in its own name or its folder's. Where img2dataset left `00000.parquet` beside
    `00000.tar`, the rows it could not fetch are drops, with its reason.

    Args:
        source: a tar, or a folder with tars in it or below it.
        images: not used: the images are in the tars.
        config: the data set's name (default: the folder's), and the split.

    Raises:
        DataError: if there is no tar, or one is compressed (its images have no byte range then).
    """
    tars = sorted(source.rglob("*.tar"), key=str) if source.is_dir() else [source]
    if not tars or not tars[0].is_file():
        raise DataError(f"{source} is no tar and holds none.", path=source)
    for tar in tars:
        with tar.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"{tar} is compressed. Unpack it with gunzip: images are read by byte range.", path=tar)
    root = source if source.is_dir() else source.parent
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", root.name)[:64]
    dataset = config.dataset or name or "webdataset"
    return Reading(
        dataset, Rows(lambda: (row for tar in tars for row in _rows(tar, dataset, config))), digests(root, tars)
    )


def _rows(tar: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    folder = tar.parent.name
    split = split_name(config.split or named_split(tar.stem) or (folder if named_split(folder) else ""))
    with tar.open("rb") as file:
        for key, members in _samples(tar, file):
            if key is None:
                yield Drop(split, "", tar.name, "image", "truncated", members)
                continue
            yield from _record(_Members(tar, file, key, members), dataset, split)
    yield from _not_fetched(tar.with_suffix(".parquet"), split)


def _samples(tar: Path, file: IO[bytes]) -> Iterator[tuple[str | None, Any]]:
    """Give each sample's key and its members (extension -> offset, size); a broken tar ends with None and why."""
    key, members = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header it saw
                if not member.isfile():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, ext = name.partition(".")
                if folder + slash + stem != key:
                    if members:
                        yield key, members
                    key, members = folder + slash + stem, {}
                members[ext.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        if members:
            yield key, members
        yield None, f"the tar is broken after {key or 'its start'}: {error}"
        return
    if members:
        yield key, members


class _Members(NamedTuple):
    """The members of one sample."""

    tar: Path
    file: IO[bytes]
    """The tar, open for reading."""
    key: str
    places: dict[str, tuple[int, int]]
    """Extension -> offset of the first byte, and bytes."""


def _record(sample: _Members, dataset: str, split: str) -> Iterator[Row]:
    tar, file, key, members = sample
    where = f"{tar.name}/{key}"
    ext = next((ext for ext in _IMAGES if ext in members), None)
    captions: list[CaptionRecord] = []
    label = role = ""
    try:
        if "json" in members:
            described = json.loads(_bytes(file, members["json"]))
            captions = _captions(described)
            label, role = str(described.get("label") or ""), str(described.get("role") or "")
        if not captions and "txt" in members:
            captions = [CaptionRecord("", _bytes(file, members["txt"]).decode("utf-8", "surrogateescape"))]
    except BAD_ROW as error:
        yield Drop(split, "", f"{where}.json", "caption", "bad-row", str(error))
    if ext is None:
        yield Drop(split, "", where, "image", "missing", f"no {', '.join(_IMAGES)} among {sorted(members)}")
        for caption in captions:
            yield Drop(split, "", where, "caption", "missing", f"its image was dropped: {caption.text[:200]!r}")
        return
    ours = key if _OURS.fullmatch(key) else keys.image_key(dataset, key)
    offset, size = members[ext]
    yield ImageRecord(ours, split, tar, f"{where}.{ext}", tuple(captions), label, role, offset=offset, length=size)


def _captions(described: Any) -> list[CaptionRecord]:
    """Return the captions of a `.json` member: ours, a list of texts, or img2dataset's one text."""
    texts = described.get("captions", described.get("caption"))
    if texts is None:
        return []
    captions = []
    for caption in texts if isinstance(texts, list) else [texts]:
        if isinstance(caption, dict):
            captions.append(CaptionRecord(str(caption.get("caption_id", "")), str(caption["text"])))
        elif isinstance(caption, str):
            captions.append(CaptionRecord("", caption))
        else:
            raise TypeError(f"a caption is {caption!r:.80}")
    return captions


def _bytes(file: IO[bytes], place: tuple[int, int]) -> bytes:
    file.seek(place[0])  # tarfile finds its way back by itself
    return file.read(place[1])


def _not_fetched(table: Path, split: str) -> Iterator[Drop]:
    """Give the rows that img2dataset could not fetch, from the table it leaves beside a tar."""
    if not table.is_file():
        return
    try:
        with table.open("rb") as file:
            rows = pq.read_table(file, columns=["url", "caption", "status", "error_message"]).to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return  # a table of something else
    for number, row in enumerate(rows):
        if row["status"] != "success":
            where = f"{table.name} row {number}"
            detail = f"{row['url']}: {row['status']}: {row['error_message']}"
            yield Drop(split, "", where, "image", "missing", detail)
            if row["caption"] is not None:
                yield Drop(split, "", where, "caption", "missing", f"its image was dropped: {row['caption'][:200]!r}")
