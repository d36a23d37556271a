"""Features that were computed elsewhere, as teacher tables: joined to the split by identifier, never by order alone."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import ConfigError, DataError
from cusa.manifests import tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.origin import IMPORTED, teacher_name, write_origin
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import arrays, store
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.extract import clip_retrieval
from cusa.pipeline.extract import plan as extract_plan

_IDS = ("key", "caption_key", "ids", "id", "image_id", "caption_id", "name", "filename", "path", "caption", "text")
_VECTORS = ("embedding", "embeddings", "features", "feature", "vectors", "vector")


@dataclass(frozen=True)
class Features:
    """Vectors with their identifiers, as a file holds them."""

    path: Path
    ids: list[str]
    vectors: np.ndarray
    """(rows, width), any float type; possibly mapped from the file."""
    ids_sha256: str = ""
    """Of the file of identifiers; empty where they stand with the vectors."""


def read_features(path: Path, ids: Path | None = None, *, modality: str = "image") -> Features:
    """Read features and their identifiers; nothing in the file is executed.

    Args:
        path: `.npz` with an array of identifiers and one of vectors; `.npy` with vectors alone, identifiers in `ids`;
            or Parquet with a column of each; or the folder that clip-retrieval's inference wrote.
        ids: a text file with an identifier a line, or a `.npy` of them; only for `.npy`.
        modality: `image` or `text`: which of a folder's.

    Raises:
        ConfigError: if the kind of file is not known or identifiers are missing.
        DataError: if the file is broken, holds objects, or rows and identifiers differ in number.
    """
    kind = path.suffix.lower()
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the file of features with --import.", path=path)
    if path.is_dir():
        names, vectors = clip_retrieval.read(path, modality)
    elif kind == ".parquet":
        table = store.read_table(path)
        where, what = (_named(path, names, table.column_names) for names in (_IDS, _VECTORS))
        names, column = table[where].to_pylist(), table[what].combine_chunks()
        if not _is_list(column.type):
            raise DataError(
                f"{path}: column {what!r} is {column.type}; a row must be a list of numbers, one vector.", path=path
            )
        if column.null_count:
            raise DataError(f"{path}: {column.null_count} rows of {what!r} are empty. Each needs a vector.", path=path)
        width = len(column[0]) if len(column) else 0
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if len(flat) != len(column) * width:
            raise DataError(f"{path}: the rows of {what!r} are not all of one length.", path=path)
        vectors = flat.reshape(len(column), -1) if len(column) else np.zeros((0, 1), np.float32)
    elif kind in (".npz", ".npy"):
        names, vectors = _read_numpy(path, ids)
    else:
        raise ConfigError(
            f"--import reads .npz, .npy, .parquet and folders of clip-retrieval, not {path.name}.", path=path
        )
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: vectors must be numbers in two dimensions; these are {vectors.dtype} of shape {vectors.shape}.",
            path=path,
        )
    if not len(vectors):
        raise DataError(f"{path} has no rows: there is nothing to import. Write it again.", path=path)
    if not vectors.shape[1]:
        raise DataError(f"{path}: vectors are {vectors.shape}; a vector needs at least one number.", path=path)
    texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    if len(texts) != len(vectors):
        raise DataError(f"{path} has {len(vectors)} vectors but {len(texts)} identifiers.", path=path)
    if len(set(texts)) != len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise DataError(
            f"{path} has the identifier {twice!r} more than once. Each row needs one of its own.", path=path
        )
    return Features(path, texts, vectors, store.sha256_file(ids) if ids is not None and kind == ".npy" else "")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _read_numpy(path: Path, ids: Path | None) -> tuple[list[object], np.ndarray]:
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as opened:
                archive = arrays.Archive(opened)
                where, what = (_named(path, names, archive.names) for names in (_IDS, _VECTORS))
                return archive[where].tolist(), archive[what]
        vectors = arrays.load(path, mapped=True)
        if ids is None:
            raise ConfigError(
                f"{path.name} holds vectors alone. Give their identifiers with --ids FILE, one a line.", path=path
            )
        if not ids.is_file():
            raise DataError(
                f"--ids {ids} does not exist or is no file. Give a text file with an identifier a line, or a .npy of "
                "them.",
                path=ids,
            )
        if ids.suffix.lower() == ".npy":
            return arrays.load(ids).tolist(), vectors
        return list(ids.read_text(encoding="utf-8").splitlines()), vectors
    except (ValueError, OSError) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        objects = any(word in str(error) for word in ("Object arrays", "Python objects", "pickle"))
        way_out = (
            "It holds Python objects (a pickled dictionary?), which are never loaded: they may run code. Convert it "
            "where you trust it: np.savez(FILE, ids=np.array(list(d)), embeddings=np.concatenate(list(d.values())))."
            if objects
            else "Restore it, or write it again."
        )
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}). {way_out}", path=path) from error


def _named(path: Path, allowed: tuple[str, ...], there: list[str]) -> str:
    for name in allowed:
        if name in there:
            return name
    raise DataError(f"{path} has none of {', '.join(allowed)}; it has {', '.join(there) or 'nothing'}.", path=path)


def run(
    config: ExtractConfig,
    *,
    split: Split,
    features: Features,
    sha256: str,
    teacher: str,
    modality: str,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write imported features as the teacher tables of one split.

    The identifiers may be keys, their last halves, the data set's file names or their stems, numbers, caption ids, or
    captions: the first of these kinds under which every row of the split is found. Rows are made unit length.

    Args:
        config: the table's numbers.
        split: the split; every row of it must be found, further rows of the file are left alone.
        features: what `read_features` gave.
        sha256: of the file.
        teacher: the name that the tables get.
        modality: `image` or `text`.
        force: write again even if nothing changed.
        on_event: called with every part.

    Raises:
        DataError: if rows of the split are not in the file, or a vector is zero or not finite.
    """
    name = teacher_name(config.name or teacher)
    folder = split.folder / "teachers" / name
    inputs = {"split": split.digest, "features": sha256}
    if features.ids_sha256:
        inputs["ids"] = features.ids_sha256
    stamp = {"teacher": name, "modality": modality, "weights_sha256": "unknown (imported)", "dtype": config.dtype}
    stage = StageRun("extract-teachers", folder / "ledger.json", inputs=inputs, parameters=stamp, force=force)
    if stage.up_to_date:
        return stage.reuse()
    if not force:
        extract_plan.refuse_another_teacher(folder, origin=IMPORTED, stamp=stamp)
    every = extract_plan.contents(split, modality, "none")
    kind, at = _join(features, split, modality, every.to_pylist())
    keys = split.image_keys if modality == "image" else split.caption_keys
    with stage.begin(unless_held=split.locks):
        store.remove_folder(folder / extract_plan.WORKSHOP)
        write_origin(folder, IMPORTED)
        made = {
            "revision": IMPORTED,
            "preprocessing": f"unknown: imported from {features.path.name} by {kind}",
            "transform": "unknown (imported)",
            "source_sha256": sha256,
        }
        parts = []
        on_event(f"{name} on {split.name}", 0, len(at))
        for shard, digest, images, captions in split.shard_rows():
            rows = images if modality == "image" else captions
            vectors = np.asarray(features.vectors[at[rows.start : rows.stop]], dtype=np.float32)
            norms = tables.row_norms(vectors)
            bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
            if bad.size:
                key = keys[rows.start + int(bad[0])]
                raise DataError(
                    f"{features.path}: the vector of {key!r} is zero or not finite ({bad.size} such rows in {shard}).",
                    path=features.path,
                    key=key,
                )
            path = extract_plan.part_path(folder, shard)
            tables.write_teacher_part(
                path,
                modality=modality,
                keys=keys[rows.start : rows.stop],
                contents=every.slice(rows.start, len(rows)),
                embeddings=(vectors / norms[:, None]).astype(config.dtype),
                metadata={**made, **stamp, "shard": shard, "shard_sha256": digest},
            )
            parts.append(path)
            on_event(f"{name} on {split.name}", rows.stop, len(at))
        for stale in set(folder.glob("[0-9]*.parquet")) - set(parts):
            stale.unlink()
        counts = {"rows": len(at), "left_in_file": len(features.ids) - len(set(at.tolist()))}
        counts["width"] = features.vectors.shape[1]
        return stage.finish(outputs=parts, counts=counts, notes=(f"Rows were found by {kind}.",))


def _join(features: Features, split: Split, modality: str, contents: list[bytes]) -> tuple[str, np.ndarray]:
    """Return the kind of identifier under which every row of the split is in the file, and where each one is.

    A kind under which rows of different content are one is none: only one of them can be the vector's.
    """
    shared = ("", "")
    row_of = {name: row for row, name in enumerate(features.ids)}
    best: tuple[int, str, str] = (-1, "", "")
    for kind, wanted in _identifiers(split, modality).items():
        rows = [row_of.get(name, -1) for name in wanted]
        at = np.array(rows, dtype=np.int64)
        if len(at) and (at >= 0).all():
            if not (twice := _of_two_contents(wanted, contents)):
                return kind, at
            shared = (kind, twice)
        hits = int((at >= 0).sum())
        if hits > best[0]:
            best = (hits, kind, next((name for name, row in zip(wanted, rows, strict=True) if row < 0), ""))
    if shared[1]:
        raise DataError(
            f"{features.path}: by {shared[0]}, {shared[1]!r} is several different {modality}s of split {split.name!r}, "
            "and there is one vector for them. Give each its own, by keys as "
            f"{(split.image_keys if modality == 'image' else split.caption_keys)[0]!r}.",
            path=features.path,
            split=split.name,
        )
    total = split.num_images if modality == "image" else split.num_captions
    raise DataError(
        f"{features.path} lacks rows of split {split.name!r}: {best[0]:,} of {total:,} were found by {best[1]}, not "
        f"for example {best[2]!r}. Its own identifiers look like {', '.join(map(repr, features.ids[:3]))}. "
        "Every row of the split needs a vector; choose splits with --split.",
        path=features.path,
        split=split.name,
    )


def _of_two_contents(names: list[str], contents: list[bytes]) -> str:
    """Return a name that rows of different content have; empty if none is."""
    first: dict[str, bytes] = {}
    return next(
        (name for name, content in zip(names, contents, strict=True) if first.setdefault(name, content) != content), ""
    )


def _identifiers(split: Split, modality: str) -> dict[str, list[str]]:
    """Return, for every kind of identifier, the one of each row."""
    if modality == "text":
        captions = split.captions["caption_id"].to_pylist()
        keys = split.caption_keys
        return {
            "caption key": keys,
            "half caption key": [key.partition("/")[2] for key in keys],
            "caption id": captions,
            "the words of the caption": split.texts,
        }
    sources = [str(source) for source in split.samples["source"].to_pylist()]
    ways: dict[str, Callable[[str], str]] = {
        "file path": str,
        "file name": lambda source: source.rpartition("/")[2],
        "file name's stem": lambda source: Path(source).stem,
        "file name's number": lambda source: _number(Path(source).stem),
    }
    halves = [key.partition("/")[2] for key in split.image_keys]
    return {
        "key": split.image_keys,
        "half key": halves,
        "key's number": [_number(half) for half in halves],
        **{kind: [way(source) for source in sources] for kind, way in ways.items()},
    }


def _number(text: str) -> str:
    digits = re.search(r"(\d+)$", text)
    return str(int(digits[1])) if digits else text
