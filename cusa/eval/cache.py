"""Embeddings kept between tasks and between evaluations, found again by content.

A row is known by what was embedded (SHA-256 of the image's bytes or of the text) and by what embedded it (weights,
preprocessing, kind of device). Under `FOLDER/KEY` lie Parquet files of rows, each whole or absent, so that a killed
evaluation loses at most the rows of one file; a checksum beside each is compared before it is read. The least recently
used files go when there are too many.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import ledger, tables
from cusa.manifests.storage import checksums, store

ROWS = 8192
"""Rows of one file; a kill loses fewer than so many."""


class EmbeddingCache:
    """Rows of one model.

    Args:
        folder: of every model's rows.
        key: what embeds: name -> digest or words.
        limit: bytes that may lie in the folder.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], *, limit: int) -> None:
        self._all = folder
        self._folder = folder / store.digest(dict(key))[:16]
        self.name = self._folder.name
        self._key = dict(key)
        self._limit = limit
        self._clock = ledger.Clock()
        self.damaged: list[Path] = []
        self.reused = 0
        self.written = 0

    def read(self, kind: str, contents: Sequence[bytes]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return which contents are known and, space by space, their rows.

        Args:
            kind: `image` or `text`.
            contents: digests, none twice.

        Returns:
            Places among the contents (n,), and space -> (n, D) float32. A file that is broken is removed: its rows are
            computed again.
        """
        damaged: list[Path] = []
        places, rows = kept(self._folder, kind, contents, damaged=damaged)
        for path in damaged:
            checksums.remove(path)
        self.damaged += damaged
        self.reused += len(places)
        return places, rows

    def write(self, kind: str, contents: Sequence[bytes], rows: Mapping[str, np.ndarray]) -> None:
        """Keep rows, in one file, if they fit.

        Args:
            kind: `image` or `text`.
            contents: their digests.
            rows: space -> (n, D).
        """
        need = sum(block.nbytes for block in rows.values()) + 32 * len(contents)
        if not contents or need > self._limit:
            return
        self._make_room(need)
        columns = {"content": pa.array(list(contents), pa.binary(32))}
        for name, block in rows.items():
            flat = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            columns[f"embedding.{name}"] = pa.FixedSizeListArray.from_arrays(flat, block.shape[1])
        digest = hashlib.sha256(b"".join(contents)).hexdigest()[:20]
        with checksums.checked_file(self._folder / f"{kind}-{digest}.parquet", made_from=self._folder.name) as path:
            store.write_table(path, pa.table(columns))
        self.written += len(contents)

    def finish(self) -> None:
        """Write the ledger: what the rows were made by, how many there are, how many were used again."""
        kept = [path for kind in ("image", "text") for path in _files(self._folder, kind)]
        if not kept:
            return
        store.sweep(self._folder)
        rows = sum(store.num_rows(path) for path in kept)
        self._clock.finish(
            self._folder / "ledger.json",
            stage="encode",
            inputs=self._key,
            parameters={},
            outputs=kept,
            counts={"rows": rows, "reused": self.reused, "computed": self.written},
        )

    def notes(self) -> list[str]:
        """Return what a person should read: that rows were not as they had been written."""
        if not self.damaged:
            return []
        return [
            f"{len(self.damaged)} files of kept embeddings in {self._folder} were not as they had been written; "
            "they were removed and their rows computed again."
        ]

    def _make_room(self, need: int) -> None:
        """Remove files, those first that were not used for longest."""
        there = []
        for path in self._all.glob("*/*.parquet"):
            with suppress(FileNotFoundError):  # another process keeps and removes rows too
                there.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in there)
        for _, size, path in sorted(there):
            if total + need <= self._limit:
                return
            checksums.remove(path)
            total -= size


def kept(
    folder: Path, kind: str, contents: Sequence[bytes], *, damaged: list[Path]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which contents one model's folder knows and, space by space, their rows; see `EmbeddingCache.read`.

    Nothing is removed.

    Args:
        folder: of one model's rows.
        kind: `image` or `text`.
        contents: digests, none twice.
        damaged: gets the files whose bytes are not those that were written; they are passed over.
    """
    record = ledger.read(folder / "ledger.json")
    place = {content: at for at, content in enumerate(contents)}
    places: list[np.ndarray] = []
    rows: dict[str, list[np.ndarray]] = {}
    seen: set[int] = set()
    for path in _files(folder, kind):
        # Files of earlier versions have no checksum beside them; their ledger has their digest.
        if not (checksums.is_intact(path, made_from=folder.name) or _is_as_recorded(path, record)):
            damaged.append(path)
            continue
        try:
            table = store.read_table(path)
            spaces = [name.removeprefix("embedding.") for name in table.column_names if name != "content"]
            blocks = {
                name: tables.embedding_matrix(table.select([f"embedding.{name}"]).rename_columns(["embedding"]))
                for name in spaces
            }
            listed = [place.get(content, -1) for content in table["content"].to_pylist()]
        except (DataError, KeyError):
            damaged.append(path)
            continue
        mine = [(row, at) for row, at in enumerate(listed) if at >= 0 and at not in seen]
        if not mine:
            continue
        os.utime(path)
        seen.update(at for _, at in mine)
        here = np.array([row for row, _ in mine])
        places.append(np.array([at for _, at in mine], np.int64))
        for name, block in blocks.items():
            rows.setdefault(name, []).append(block[here])
    if not places:
        return np.array([], np.int64), {}
    return np.concatenate(places), {name: np.concatenate(parts) for name, parts in rows.items()}


def _is_as_recorded(path: Path, record: ledger.Ledger | None) -> bool:
    """Tell whether a file holds the bytes whose digest its ledger has."""
    recorded = record.digests.get(path.name) if record is not None else None
    return bool(recorded) and ledger.output_digest(record, path.parent, path.name) == recorded


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-*.parquet"))
