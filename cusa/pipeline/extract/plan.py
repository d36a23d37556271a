"""Planning an extraction: each distinct image or text is embedded once, and never again where a table has it.

Rows are identified by their content, the SHA-256 of an image's bytes or of a text as the teacher reads it. A content
that an older part holds is copied from there; one that several tars share is computed first, in a unit of its own; the
rest belongs to the tar it stands in. So the tars' units need nothing of each other and can be worked on in any order,
on any number of machines, with the same result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import ConfigError, DataError
from cusa.manifests import tables
from cusa.manifests.origin import is_same_origin, read_origin
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.captions import TRANSFORMS

WORKSHOP = ".work"
"""Folder inside a teacher's own, for what lasts only as long as the stage."""

_SHARED_ROWS = 4096  # contents in one unit of those that several tars share

_FORMAT = 2


@dataclass(frozen=True)
class Reused:
    """Rows that another file has already."""

    path: Path
    rows: np.ndarray
    """Row numbers in that file."""
    places: np.ndarray
    """Where they go among the unit's distinct contents."""


@dataclass(frozen=True)
class Unit:
    """One file to be written, and where its rows come from."""

    path: Path
    keys: range
    """Rows of the split that stand in the file; empty for the contents that several tars share."""
    stamp: Mapping[str, str]
    compute: np.ndarray
    """Rows of the split to be embedded."""
    places: np.ndarray
    """Where they go among the unit's distinct contents."""
    reused: tuple[Reused, ...]
    order: np.ndarray
    """For each row of the file its distinct content."""

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return len(self.order)


def contents(split: Split, modality: str, transform: str, *, rows: Sequence[int] | None = None) -> pa.Array:
    """Return the content of rows of a split: `pa.binary(32)`, in the order given.

    Args:
        split: the split.
        modality: `image` or `text`.
        transform: a name of `TRANSFORMS`; only texts have one.
        rows: which; all in the split's order if None.
    """
    if modality == "image":
        column = split.samples["sha256"] if rows is None else split.samples["sha256"].take(pa.array(rows, pa.int64()))
        digests = [bytes.fromhex(digest) for digest in column.to_pylist()]
    else:
        change = TRANSFORMS[transform]
        texts = split.texts if rows is None else [split.texts[row] for row in rows]
        digests = [sha256(change(text).encode("utf-8", "surrogatepass")).digest() for text in texts]
    return pa.array(digests, pa.binary(32))


def refuse_another_teacher(folder: Path, *, origin: str, stamp: Mapping[str, str]) -> None:
    """Refuse to replace the tables of another teacher that gets the same folder name.

    The same teacher with other weights, another transform or other numbers is no other teacher.

    Args:
        folder: the teacher's.
        origin: what `cusa.manifests.origin.origin_of` gave, or `IMPORTED`.
        stamp: what every part of this teacher says of its making.

    Raises:
        ConfigError: if the tables in the folder are those of another modality, or came from another origin with other
            weights.
    """
    parts = sorted(folder.glob("[0-9]*.parquet"))
    if not parts:
        return
    there = tables.read_part_metadata(parts[0])
    before = read_origin(folder)
    other_modality = there.get("modality", stamp["modality"]) != stamp["modality"]
    if other_modality or (
        not is_same_origin(before, origin) and there.get("weights_sha256") != stamp["weights_sha256"]
    ):
        raise ConfigError(
            f"{folder} holds the {there.get('modality')} embeddings of another teacher of that name"
            f"{f' ({before})' if before else ''}; the {stamp['modality']} embeddings of {origin} would replace them. "
            "Give these tables a name of their own (--as NAME), or replace the ones that are there with --force.",
            path=folder,
            teacher=origin,
        )


def begin(
    folder: Path,
    split: Split,
    stamp: Mapping[str, str],
    modality: str,
    *,
    every: pa.Array,
    digests: Mapping[str, str],
    force: bool,
) -> list[Path]:
    """Prepare a teacher's folder for a run, or find where a killed run of the same plan began.

    Parts of this teacher that no longer fit their tar are put aside for their rows; parts of another teacher or
    transform, and parts that are not what was written, are removed. What lay there at the beginning is written down,
    with its SHA-256, so that a run that is killed and started again plans the same batches, and ends with the same
    bytes.

    Args:
        folder: the teacher's.
        split: the split.
        stamp: what every part of this teacher says of its making.
        modality: `image` or `text`.
        every: what `contents` gave.
        digests: SHA-256 of parts as the ledger of the last finished run has them, by name.
        force: use nothing that is there.

    Returns:
        The files whose rows may be reused, whole ones, in a fixed order.
    """
    shop = folder / WORKSHOP
    plan = shop / "plan.json"
    identity = {"format": _FORMAT, "split": split.digest, "stamp": dict(stamp)}
    if force:
        store.remove_folder(shop)
        for part in folder.glob("[0-9]*.parquet"):
            part.unlink()
    for place in (folder, shop, shop / "shared"):
        store.sweep(place)
    begun = store.read_json(plan) if plan.is_file() else {}
    same = {key: begun.get(key) for key in identity} == identity
    if same and not all(path.is_file() and store.sha256_file(path) == digest for path, digest in _pool(folder, begun)):
        # A part was changed since it was planned on: it is looked at anew, against what was recorded then.
        digests, same = {path.name: digest for path, digest in _pool(folder, begun)}, False
    if not same:
        store.remove_folder(shop / "shared")
        image = modality == "image"
        keys = split.image_keys if image else split.caption_keys
        fitting = {
            part_path(folder, shard): (sha, images if image else captions)
            for shard, sha, images, captions in split.shard_rows()
        }
        kept = []
        aside = shop / "aside"
        for part in sorted(aside.glob("*.parquet")):
            if not _is_whole(part, digests.get(part.name, "")):
                part.unlink()
        for part in sorted(folder.glob("[0-9]*.parquet")):
            if not _is_whole(part, digests.get(part.name, "")):
                part.unlink()
                continue
            metadata = tables.read_part_metadata(part)
            sha, span = fitting.get(part, ("", range(0)))
            of_split = slice(span.start, span.stop)
            if any(metadata.get(key) != value for key, value in stamp.items()):
                part.unlink()
            elif metadata.get("shard_sha256") == sha and holds_rows(
                part, keys[of_split], every[of_split], tables.KEY_OF[modality]
            ):
                kept.append(part.name)
            else:
                aside.mkdir(parents=True, exist_ok=True)
                part.rename(aside / f"{part.stem}-{metadata.get('shard_sha256', '')[:16]}.parquet")
        begun = {
            **identity,
            "kept": _digests(folder / name for name in kept),
            "aside": _digests(aside.glob("*.parquet")),
        }
        store.write_json(plan, begun)
    return [path for path, _ in _pool(folder, begun)]


def _pool(folder: Path, begun: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return the files that a plan reuses, in a fixed order, each with its SHA-256."""
    return [(folder / name, digest) for name, digest in sorted(begun["kept"].items())] + [
        (folder / WORKSHOP / "aside" / name, digest) for name, digest in sorted(begun["aside"].items())
    ]


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: store.sha256_file(file) for file in files}


def _is_whole(part: Path, recorded: str) -> bool:
    """Tell whether a part is what was written: by its recorded SHA-256, or page by page where there is none."""
    if recorded:
        return store.sha256_file(part) == recorded
    try:
        for _ in store.table_batches(part):
            pass
    except DataError:
        return False
    return True


def holds_rows(part: Path, keys: list[str], row_contents: pa.Array, key_column: str) -> bool:
    """Tell whether a part holds just these keys and contents in this order, and every page of it is what was written.

    Args:
        part: the file; may be missing or broken.
        keys: image or caption keys.
        row_contents: `pa.binary(32)`, one a key.
        key_column: the column of the keys.
    """
    try:
        at = 0
        for table in store.table_batches(part):
            there = slice(at, at + table.num_rows)
            if table[key_column].to_pylist() != keys[there]:
                return False
            if not table["content"].combine_chunks().equals(row_contents[there]):
                return False
            at = there.stop
    except (DataError, KeyError):
        return False
    return at == len(keys)


def part_path(folder: Path, shard: str) -> Path:
    """Return the file of one tar's rows."""
    return folder / f"{Path(shard).stem}.parquet"


def units(
    folder: Path, split: Split, rows_of_all: pa.Array, pool: list[Path], *, stamp: Mapping[str, str], modality: str
) -> tuple[list[Unit], list[Unit]]:
    """Plan the files to write.

    Args:
        folder: the teacher's.
        split: the split.
        rows_of_all: what `contents` gave.
        pool: what `begin` gave.
        stamp: what every part of this teacher says of its making.
        modality: `image` or `text`.

    Returns:
        The units of what several tars share, to be done first, and the units of the tars.
    """
    encoded = rows_of_all.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)  # distinct contents, numbered by their first row
    file_of, row_of = _find_in(pool, encoded.dictionary)
    kept = {path for path in pool if path.parent == folder}
    shards = [
        (part_path(folder, shard), shard, sha, images if modality == "image" else captions)
        for shard, sha, images, captions in split.shard_rows()
    ]
    missing = [entry for entry in shards if entry[0] not in kept]

    first_row = np.full(len(encoded.dictionary), -1, dtype=np.int64)
    tars = np.zeros(len(encoded.dictionary), dtype=np.int32)
    for _, _, _, rows in missing:
        distinct, where = np.unique(codes[rows.start : rows.stop], return_index=True)
        new = first_row[distinct] < 0
        first_row[distinct[new]] = rows.start + where[new]
        tars[distinct] += 1

    files = list(pool)
    shared = []
    needed = np.flatnonzero((tars > 1) & (file_of < 0))
    for number, start in enumerate(range(0, len(needed), _SHARED_ROWS)):
        chunk = needed[start : start + _SHARED_ROWS]
        path = folder / WORKSHOP / "shared" / f"{number:05d}.parquet"
        everyone = np.arange(len(chunk))
        shared.append(Unit(path, range(0), {**stamp, "shard": "shared"}, first_row[chunk], everyone, (), everyone))
        file_of[chunk], row_of[chunk] = len(files), everyone
        files.append(path)

    parts = []
    for path, shard, sha, rows in missing:
        distinct, order = np.unique(codes[rows.start : rows.stop], return_inverse=True)
        own = file_of[distinct] < 0
        reused = [
            Reused(files[file], row_of[distinct[places]], places)
            for file in np.unique(file_of[distinct[~own]])
            for places in (np.flatnonzero(file_of[distinct] == file),)
        ]
        parts.append(
            Unit(
                path,
                rows,
                {**stamp, "shard": shard, "shard_sha256": sha},
                first_row[distinct[own]],
                np.flatnonzero(own),
                tuple(reused),
                order,
            )
        )
    return shared, parts


def _find_in(pool: list[Path], distinct: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each distinct content, the pool's file that has it (-1: none) and its row there."""
    import pyarrow.compute as pc

    file_of = np.full(len(distinct), -1, dtype=np.int32)
    row_of = np.zeros(len(distinct), dtype=np.int64)
    for number, path in enumerate(pool):
        there = store.read_table(path, columns=["content"])["content"].combine_chunks()
        at = pc.index_in(distinct, value_set=there)
        hits = np.flatnonzero(pc.is_valid(at).to_numpy(zero_copy_only=False) & (file_of < 0))
        file_of[hits] = number
        row_of[hits] = at.fill_null(-1).to_numpy(zero_copy_only=False)[hits]
    return file_of, row_of
