"""Teacher rows by position, from a file of plain rows (the cache) built once from the Parquet tables.

Parquet is what others read; a training step wants a few hundred scattered rows in a fraction of a millisecond without
holding the table in memory. The operating system's page cache decides what stays. The cache is used only if its
checksum is right, see `cusa.manifests.storage.checksums`; otherwise it is built again.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import checksums, store
from cusa.train.data.rows import Rows


class TeacherRows:
    """The embeddings of one teacher over one split, row by row.

    Args:
        split: the split.
        teacher: the teacher's folder name.
        fallback: folder for the cache where the work folder cannot be written.

    Attributes:
        digest: of every byte of the teacher's tables and of the split.
        path: the cache.
        notes: full sentences a person should read: a cache that was damaged.

    Raises:
        DataError, StaleError: if the tables are missing, broken, or of another state of the split.
    """

    def __init__(self, split: Split, teacher: str, *, fallback: Path) -> None:
        self.teacher = teacher
        self.digest = store.digest([tables.teacher_digest(split, teacher), split.digest])
        self.notes: tuple[str, ...] = ()
        name = f"{teacher}-{self.digest[:16]}.npy"
        places = [split.folder / "cache" / name, fallback / f"{split.name}-{name}"]
        self.path = self._intact(places) or _build(split, teacher, places, self.digest)
        self._rows = _open(self.path)
        self._kept: np.ndarray | None = None

    def _intact(self, places: list[Path]) -> Path | None:
        """Return the first cache whose checksum is right; note those that are damaged."""
        for place in places:
            problem = checksums.problem(place, made_from=self.digest)
            if not problem:
                return place
            if place.exists():
                self.notes += (f"The cache {place} was damaged and was built again ({problem}).",)
        return None

    @property
    def width(self) -> int:
        """Numbers an embedding."""
        return self._rows.shape[0]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, width) float32 copies of the given rows."""
        read: np.ndarray = self._rows[rows] if self._kept is None else self._kept[rows]
        floats: np.ndarray = torch.from_numpy(read).float().numpy()  # several times faster than numpy from float16
        return floats

    def keep(self, *, budget: int) -> int:
        """Keep all rows in memory from now on, in the type that the tables have, if they are not more than a budget.

        Args:
            budget: bytes.

        Returns:
            The bytes that they take of it, 0 if they are more.
        """
        if self._kept is None:
            if self.nbytes > budget:
                return 0
            self._kept = self._rows.whole()
        return self.nbytes

    def on(self, device: torch.device, *, budget: int) -> Tensor | None:
        """Return all rows on a device, in the type that the tables have, or None if they are more than a budget.

        Args:
            device: where.
            budget: bytes.
        """
        if self._rows.nbytes > budget:
            return None
        return torch.from_numpy(self._rows.whole()).to(device)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._rows.nbytes


def _open(path: Path) -> Rows:
    """Open a `.npy` file of rows.

    Raises:
        ValueError: if it is no such file, or shorter than its header says.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_major, dtype = read(file)
        if len(shape) != 2 or column_major or dtype.hasobject:
            raise ValueError(f"{path} holds no rows of plain numbers")
        rows = Rows(path, dtype, shape[1:], offset=file.tell())
    if len(rows) != shape[0]:
        raise ValueError(f"{path} is cut")
    return rows


def _build(split: Split, teacher: str, places: list[Path], digest: str) -> Path:
    """Write the cache to the first place that can be written, in place of older ones of the same teacher."""

    def write(place: Path) -> None:
        with checksums.checked_file(place, made_from=digest) as temporary:
            _write(split, teacher, temporary)

    place = checksums.write_in_first(places, write)
    prefix = place.name.removesuffix(".npy")[:-16]
    for old in place.parent.glob(f"{prefix}{'?' * 16}.npy"):
        if old != place:
            checksums.remove(old)
    return place


def _write(split: Split, teacher: str, path: Path) -> None:
    """Write all rows as one array, a part at a time."""
    count = 0
    with path.open("wb") as file:
        dtype, width = np.dtype(np.float16), 0
        for part in tables.read_parts(split, teacher):
            rows = part.embeddings
            if not width:
                dtype, width = rows.dtype, rows.shape[1]
                total = split.num_images if part.modality == "image" else split.num_captions
                np.lib.format.write_array_header_2_0(
                    file,
                    {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total, width)},
                )
            if rows.shape[1] != width or rows.dtype != dtype:
                raise DataError(
                    f"Teacher {teacher!r} of {split.folder} has rows of {width} and of {rows.shape[1]} numbers, "
                    f"{dtype} and {rows.dtype}. Run `cusa extract-teachers {split.work} --force`.",
                    teacher=teacher,
                )
            file.write(np.ascontiguousarray(rows).tobytes())
            count += len(rows)
    if not count:
        raise DataError(f"{split.folder} has no shards, so no teacher can be read.", path=split.folder)
