"""FAISS index files: written whole, their checksum in the metadata of the neighbour table beside them, compared when
opened.

FAISS itself notices no damage: an index of another split answers with wrong rows, and flipped bytes with a similarity
of 8e35. The checksum is that of `cusa.manifests.storage.checksums`. Comparing it reads the whole file, at the speed of
memory where the file is cached; an exact search reads every vector as well.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cusa.errors import DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.storage import checksums, store

if TYPE_CHECKING:
    import faiss

CHECKSUM = "index_xxh3_128"
"""The key of the index file's checksum in the metadata of its neighbour table."""


def write_index(path: Path, index: "faiss.Index") -> dict[str, str]:
    """Write an index file, whole.

    Args:
        path: the file.
        index: what to write.

    Returns:
        What the metadata of its neighbour table must hold, for `read_index`.
    """
    import faiss

    with store.whole_file(path) as temporary:
        faiss.write_index(index, str(temporary))
        return {CHECKSUM: checksums.checksum(temporary)}


def read_index(path: Path, *, table: Path, made_from: dict[str, str], made_by: str, rows: int) -> "faiss.Index":
    """Open an index file, its vectors mapped from the disk, once it is proven to be the one that was written.

    Args:
        path: what `write_index` wrote.
        table: the neighbour table whose metadata hold its checksum.
        made_from: what the table's metadata must say of its making, such as the digests of the split and the teacher.
        made_by: the command that makes both.
        rows: how many rows it must hold.

    Raises:
        DataError: if either file is missing, or the index was changed or damaged since.
        StaleError: if it was made from something else.
    """
    for file in (table, path):
        if not file.is_file():
            raise DataError(f"{file} does not exist. Run `{made_by}`.", path=file)
    stamp = tables.read_part_metadata(table)
    for key, now in made_from.items():
        if stamp.get(key) != now:
            raise StaleError(
                f"{table} and {path.name} were made from another {_WHAT.get(key, key)}. Run `{made_by}`.", path=path
            )
    if (written := stamp.get(CHECKSUM)) is None:
        raise StaleError(
            f"{table} holds no checksum of {path.name}, so the index cannot be trusted. Run `{made_by} --force`.",
            path=path,
        )
    if (now := checksums.checksum(path)) != written:
        raise DataError(
            f"{path} is not the index that was written (checksum {now[:12]} instead of {written[:12]}): it was "
            f"changed, damaged or replaced since. Run `{made_by} --force`.",
            path=path,
        )
    import faiss

    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise DataError(f"{path} is no readable index. Run `{made_by} --force`.", path=path) from error
    if index.ntotal != rows:
        raise StaleError(f"{path} has {index.ntotal} rows and the split {rows}. Run `{made_by}`.", path=path)
    return index


_WHAT = {
    "split": "state of the split",
    "teacher_digest": "state of the teacher's tables",
    "weights_sha256": "state of the student",
    "features_sha256": "state of the tables that the student reads",
}
