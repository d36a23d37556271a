"""Reading a split: its samples and captions, and any image by its byte range in a tar."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cusa.errors import DataError
from cusa.manifests import keys, schemas
from cusa.manifests.storage import mirror, store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.manifests.storage.paths import is_remote, named_remote_errors, refuse_undecodable

_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
SPLIT_FILES = ("shards.parquet", "samples.parquet", "captions.parquet")


def splits(work: Path) -> list[str]:
    """Return the names of the splits in a work folder, in the order train, val, test, others.

    Raises:
        DataError: if the folder holds none.
    """
    order = {"train": 0, "restval": 1, "val": 2, "test": 3}
    with named_remote_errors(work):
        there = work.is_dir()
        names = [file.parent.name for file in work.glob("*/samples.parquet")] if there else []
    if not names:
        what = "holds no split" if there else "does not exist"
        raise DataError(f"{work} {what}. Make one with `cusa shard ... --out {work}`.", path=work)
    return sorted(names, key=lambda name: (order.get(name, 9), name))


NO_SOURCE = "no source"
"""What figures call the captions of which nobody says what made them."""


def with_caption_sources(captions: pa.Table) -> pa.Table:
    """Return a table of captions with the column of their sources, empty ones where it has none."""
    source = schemas.CAPTION_SOURCE
    if source.name in captions.column_names:
        return captions
    return captions.append_column(source, pa.array([""] * captions.num_rows, source.type))


class CocoIds(NamedTuple):
    """COCO's ids of a split's rows, by `keys.coco_image_id`; -1 where a row has none, or shares it with another row."""

    images: list[int]
    """One an image row."""
    captions: list[int]
    """One a caption row: the number that the data set gave the caption."""

    def image_row(self) -> dict[int, int]:
        """Return COCO id -> image row."""
        return {number: row for row, number in enumerate(self.images) if number >= 0}

    def caption_row(self) -> dict[int, int]:
        """Return COCO id -> caption row."""
        return {number: row for row, number in enumerate(self.captions) if number >= 0}


def _unshared(numbers: Sequence[int]) -> list[int]:
    times = Counter(numbers)
    return [number if times[number] == 1 else -1 for number in numbers]


def shard_path(folder: Path, shard: str) -> Path:
    """Return where a tar that a table names lies: in the split's own folder, whoever wrote the table.

    Raises:
        DataError: if the name leaves the folder.
    """
    if shard in ("", ".", "..") or any(sign in shard for sign in ("/", "\\", "\0")):
        raise DataError(
            f"{folder}: a table names the tar {shard[:200]!r}, which is no file of that folder. Tables of a stranger "
            "are not followed elsewhere; make the split again with `cusa shard ... --force`.",
            path=folder,
            shard=shard,
        )
    return folder / shard


def _strings(column: pa.ChunkedArray) -> list[str]:
    values: list[str] = column.to_pylist()
    return values


class Split:
    """One sharded split of a work folder, opened for reading.

    Rows keep one order everywhere: image row i is row i of `samples`, of its teacher tables and of every matrix.

    Args:
        work: the work folder that `cusa shard` wrote.
        name: the split, for example `train`.

    Raises:
        DataError: if a table is missing or broken; the message names the splits there are.
    """

    def __init__(self, work: Path, name: str) -> None:
        refuse_undecodable(work)
        names = splits(work)
        if name not in names:
            raise DataError(f"{work} has no split {name!r}; it has {', '.join(names)}.", work=work, split=name)
        self.work = work
        self.name = name
        self.folder = work / name
        made_by = f"cusa shard ... --out {work}"
        tables = list(zip(SPLIT_FILES, (schemas.SHARDS, schemas.SAMPLES, schemas.CAPTIONS), strict=True))
        _, self._num_images, self._num_captions = (
            store.check_table(self.folder / file, columns=schema.names, made_by=made_by) for file, schema in tables
        )
        for file, schema in tables:
            store.check_types(self.folder / file, schema, made_by=made_by)
        self._tars: dict[str, int] = {}
        self._origin = mirror.origin(work)

    # The large tables are read when they are asked for: training reads them row by row from files.

    @cached_property
    def shards(self) -> pa.Table:
        """One row a tar."""
        return self._table(SPLIT_FILES[0], schemas.SHARDS)

    @cached_property
    def samples(self) -> pa.Table:
        """One row an image."""
        return self._table(SPLIT_FILES[1], schemas.SAMPLES)

    @cached_property
    def captions(self) -> pa.Table:
        """One row a caption, also with its `source`."""
        schema = schemas.CAPTIONS
        if schemas.CAPTION_SOURCE.name in store.column_names(self.folder / SPLIT_FILES[2]):
            schema = schema.append(schemas.CAPTION_SOURCE)
        return with_caption_sources(self._table(SPLIT_FILES[2], schema))

    def _table(self, file: str, schema: pa.Schema) -> pa.Table:
        """Read a table, in the types of its schema.

        Raises:
            DataError: if a value is missing or does not fit.
        """
        path = self.folder / file
        again = "Make it again with `cusa shard ... --force`."
        try:
            table = store.read_table(path, columns=schema.names).cast(schema)
        except pa.ArrowException as error:
            raise DataError(f"{path} holds values of the wrong type ({error}). {again}", path=path) from error
        for name in schema.names:
            if missing := table[name].null_count:
                raise DataError(f"{path}: {missing} rows have no {name!r}. {again}", path=path, column=name)
        return table

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the split's three tables, and through them over every byte of its tars."""
        total = hashlib.sha256()
        for file in SPLIT_FILES:
            total.update(bytes.fromhex(store.sha256_file(self.folder / file)))
        return total.hexdigest()

    @property
    def locks(self) -> tuple[Path, ...]:
        """Locks that nobody else may hold while something is written into the split: that of sharding."""
        return (self.work / store.LOCK,)

    @property
    def num_images(self) -> int:
        """Images in the split."""
        return self._num_images

    @property
    def num_captions(self) -> int:
        """Captions in the split, all images together."""
        return self._num_captions

    @cached_property
    def image_keys(self) -> list[str]:
        """The key of each image row."""
        return _strings(self.samples["key"])

    @cached_property
    def caption_keys(self) -> list[str]:
        """The key of each caption row."""
        return _strings(self.captions["caption_key"])

    @cached_property
    def image_row(self) -> dict[str, int]:
        """Image key -> image row."""
        return {key: row for row, key in enumerate(self.image_keys)}

    @cached_property
    def caption_row(self) -> dict[str, int]:
        """Caption key -> caption row."""
        return {key: row for row, key in enumerate(self.caption_keys)}

    @cached_property
    def coco_ids(self) -> CocoIds:
        """COCO's ids of the images and captions."""
        captions = _strings(self.captions["caption_id"])
        return CocoIds(
            _unshared([keys.coco_image_id(key) for key in self.image_keys]),
            _unshared([keys.coco_caption_id(name) for name in captions]),
        )

    @cached_property
    def texts(self) -> list[str]:
        """The words of each caption row, as the data set has them."""
        return _strings(self.captions["text"])

    @cached_property
    def caption_sources(self) -> list[str]:
        """What made each caption row, as `human` or `synthetic`; empty where nobody says."""
        return _strings(self.captions["source"])

    @cached_property
    def source_rows(self) -> dict[str, np.ndarray]:
        """Source -> its caption rows, by name; those of no known source as `NO_SOURCE`. Empty where none is known."""
        names, codes = np.unique(np.array(self.caption_sources, dtype=object), return_inverse=True)
        if not any(names):
            return {}
        return {str(name) or NO_SOURCE: np.flatnonzero(codes == number) for number, name in enumerate(names)}

    @cached_property
    def caption_owner(self) -> np.ndarray:
        """The image row that owns each caption row: int64 (captions,)."""
        rows = pc.index_in(self.captions["key"], value_set=self.samples["key"].combine_chunks())
        if rows.null_count:
            raise DataError(
                f"{self.folder}: {rows.null_count} captions belong to no image of the split. "
                f"Make it again with `cusa shard ... --force`.",
                path=self.folder,
            )
        return np.asarray(rows.to_numpy(), dtype=np.int64)

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image of one row, read by its byte range.

        Raises:
            DataError: if the tar is missing or shorter than its table says.
        """
        if not self._bytes[row]:
            raise DataError(
                f"{self.image_keys[row]} has no image: {self.folder} holds texts alone. Use it with text teachers.",
                path=self.folder,
            )
        return self.bytes_at(self._shard[row], int(self._offset[row]), int(self._bytes[row]), key=self.image_keys[row])

    def checked_image_bytes(self, row: int) -> bytes:
        """Return the encoded image of one row, compared with the SHA-256 that was recorded when it was sharded.

        Raises:
            DataError: as for `image_bytes`, and if the bytes are not those that were sharded.
        """
        data = self.image_bytes(row)
        if hashlib.sha256(data).hexdigest() != self.samples["sha256"][row].as_py():
            path = self.folder / self._shard[row]
            raise DataError(
                f"{path}: the bytes of {self.image_keys[row]} are not those that were sharded (their SHA-256 differs); "
                "the tar was changed or damaged since. Restore it, or make it again with `cusa shard ... --force`.",
                path=path,
                key=self.image_keys[row],
            )
        return data

    def bytes_at(self, shard: str, offset: int, size: int, *, key: str) -> bytes:
        """Return a range of a tar's bytes.

        Args:
            shard: the tar's name.
            offset: of the first byte.
            size: how many.
            key: whose they are, for the error message.

        Raises:
            DataError: if the tar is missing or ends before the range does, or its name leaves the split's folder.
        """
        path = shard_path(self.folder, shard)
        if offset < 0 or not 0 <= size < 1 << 40:
            raise DataError(
                f"{self.folder}: the bytes of {key} are said to be {size} from {offset} on in {shard}. Make it again "
                "with `cusa shard ... --force`.",
                path=path,
                key=key,
            )
        data = self._read(shard, offset, size)
        if len(data) != size:
            raise DataError(
                f"{path} ends within {key}. Make it again with `cusa shard ... --force`.",
                path=path,
                key=key,
            )
        return data

    def shard_rows(self) -> list[tuple[str, str, range, range]]:
        """Return, for each tar: its name, its sha256, its image rows and its caption rows."""
        out, image, caption = [], 0, 0
        for row in self.shards.to_pylist():
            images, captions = range(image, image + row["images"]), range(caption, caption + row["captions"])
            out.append((row["shard"], row["sha256"], images, captions))
            image, caption = images.stop, captions.stop
        return out

    def close(self) -> None:
        """Close the tars that reading opened."""
        for descriptor in self._tars.values():
            os.close(descriptor)
        self._tars.clear()

    def __del__(self) -> None:
        if hasattr(self, "_tars"):
            self.close()

    def __getstate__(self) -> dict[str, object]:
        # Open files do not travel to worker processes; they are opened again there.
        return {**self.__dict__, "_tars": {}}

    @cached_property
    def _shard(self) -> list[str]:
        return _strings(self.samples["shard"])

    @cached_property
    def _offset(self) -> np.ndarray:
        return np.asarray(self.samples["image_offset"].to_numpy())

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.asarray(self.samples["image_bytes"].to_numpy())

    @cached_property
    def _sha256(self) -> dict[str, str]:
        return dict(zip(self.shards["shard"].to_pylist(), self.shards["sha256"].to_pylist(), strict=True))

    def _read(self, shard: str, offset: int, size: int) -> bytes:
        """Return some bytes of a tar: from the file, from a mirror's copy, or with one range request from elsewhere."""
        if self._origin is not None:
            return mirror.read_tar(self._origin / self.name / shard, self._sha256[shard], offset, size)
        if not is_remote(self.folder):
            descriptor = self._tar(shard)
            # A table that lies may ask for more bytes than there is memory.
            return os.pread(descriptor, max(0, min(size, os.fstat(descriptor).st_size - offset)), offset)
        path = self.folder / shard
        with named_remote_errors(path):
            return bytes(path.fs.cat_file(path.path, start=offset, end=offset + size))  # type: ignore[attr-defined]

    def _tar(self, shard: str) -> int:
        if shard not in self._tars:
            path = self.folder / shard
            try:
                with named_os_errors(path):
                    self._tars[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DataError(
                    f"{path} cannot be opened ({error.strerror}). Restore it, or make it again with "
                    "`cusa shard ... --force`.",
                    path=path,
                ) from error
        return self._tars[shard]


def caption_json(row: Mapping[str, Any]) -> dict[str, object]:
    """Return what the `{key}.json` member of a sample says of a caption, a row of its split's table."""
    names = ("caption_key", "caption_id", "text", *(("source",) if row["source"] else ()))
    return {name: row[name] for name in names}


def sample_json(*, key: str, captions: list[dict[str, object]], **fields: object) -> bytes:
    """Return the `{key}.json` member of a sample: sorted keys, UTF-8, one line."""
    return _encode({"key": key, "captions": captions, **fields}).encode()
