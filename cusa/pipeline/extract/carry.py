"""Teacher rows that a new work folder takes from the one it was made of, so that nothing is embedded twice."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.ledger import Ledger
from cusa.manifests.origin import read_origin, write_origin
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.captions import TRANSFORMS
from cusa.pipeline.extract import plan as extract_plan

STAGE = "extract-teachers"


def run(source: Path, work: Path, *, on_event: OnEvent = ignore) -> list[Outcome]:
    """Write the teacher tables of a part of a work folder, row by row from the tables of the whole.

    A row is found by its content: the SHA-256 of the image's bytes, or of the text as the teacher reads it. A teacher
    whose tables lack one of the rows, or do not belong to the splits that they lie in, is left out: `cusa
    extract-teachers` makes its tables.

    Args:
        source: the work folder that has the tables.
        work: the work folder that gets them.
        on_event: called with every part.

    Returns:
        The outcome of each teacher and split that got its tables, or has them already.
    """
    outcomes = []
    wholes = [Split(source, name) for name in splits(source)]
    for teacher in dict.fromkeys(name for whole in wholes for name in tables.teachers(whole)):
        rows = _Rows.of(wholes, teacher)
        if rows is None:
            continue
        for name in splits(work):
            outcome = _carry(rows, Split(work, name), on_event)
            outcomes += [outcome] if outcome is not None else []
    return outcomes


def left_out(source: Path, work: Path) -> list[str]:
    """Return the teachers that some split of the part lacks, though the whole has them."""
    whole = {name for one in splits(source) for name in tables.teachers(Split(source, one))}
    parts = [tables.teachers(Split(work, one)) for one in splits(work)]
    return sorted(name for name in whole if not all(name in part for part in parts))


class _Rows:
    """The rows of one teacher over all splits that have it, by content."""

    def __init__(self, teacher: str, origin: str, written: Ledger, parts: list[Path], contents: list[pa.Array]) -> None:
        self.teacher, self.origin, self.written = teacher, origin, written
        self.metadata = tables.read_part_metadata(parts[0])
        self.width = tables.part_width(parts[0])
        self._parts = parts
        self._contents = pa.concat_arrays(contents)
        self._starts = np.cumsum([0, *map(len, contents)])
        self._read = lru_cache(maxsize=2)(_embeddings)

    @classmethod
    def of(cls, wholes: Iterable[Split], teacher: str) -> "_Rows | None":
        """Find them; None where there are none that can be trusted, or splits differ in how theirs were made."""
        first: Ledger | None = None
        parts, contents, origin = [], [], ""
        for whole in wholes:
            folder = whole.folder / "teachers" / teacher
            written = ledger.read(folder / "ledger.json")
            if written is None or written.inputs.get("split") != whole.digest:
                continue
            if first is not None and written.parameters != first.parameters:
                return None
            first = first or written
            origin = origin or read_origin(folder)
            try:
                for name in sorted(one for one in written.outputs if one.endswith(".parquet")):
                    ledger.refuse_changed_output(written, folder, name)
                    table = store.read_table(folder / name, columns=["content"], made_by=f"cusa {STAGE} {whole.work}")
                    contents.append(table["content"].combine_chunks())
                    parts.append(folder / name)
            except (DataError, StaleError):
                return None
        return cls(teacher, origin, first, parts, contents) if first is not None and parts else None

    def find(self, wanted: pa.Array) -> np.ndarray | None:
        """Return where the rows of some contents are; None if one is missing."""
        at = pc.index_in(wanted, self._contents)
        return None if at.null_count else at.to_numpy(zero_copy_only=False).astype(np.int64)

    def take(self, at: np.ndarray) -> np.ndarray:
        """Return the rows at some places, (rows, width)."""
        part_of = np.searchsorted(self._starts, at, side="right") - 1
        rows = None
        for part in np.unique(part_of):
            there, embeddings = part_of == part, self._read(self._parts[part])
            rows = np.empty((len(at), self.width), embeddings.dtype) if rows is None else rows
            rows[there] = embeddings[at[there] - self._starts[part]]
        assert rows is not None, "a shard has rows"
        return rows


def _embeddings(path: Path) -> np.ndarray:
    return tables.embedding_matrix(store.read_table(path, columns=["embedding"]))


def _carry(rows: _Rows, split: Split, on_event: OnEvent) -> Outcome | None:
    """Write the tables of one split; None where others of that name lie there, or a row is missing."""
    modality = rows.metadata["modality"]
    folder = split.folder / "teachers" / rows.teacher
    inputs = {**rows.written.inputs, "split": split.digest}
    stage = StageRun(STAGE, folder / "ledger.json", inputs=inputs, parameters=rows.written.parameters)
    if stage.up_to_date:
        return stage.reuse()
    transform = rows.metadata.get("transform", "none")
    wanted = extract_plan.contents(split, modality, transform if transform in TRANSFORMS else "none")
    at = rows.find(wanted)
    if at is None or not len(at):
        return None
    others = stage.before is None or stage.before.parameters != rows.written.parameters
    if others and any(folder.glob("[0-9]*.parquet")):
        return None
    keys = split.image_keys if modality == "image" else split.caption_keys
    with stage.begin(unless_held=split.locks):
        write_origin(folder, rows.origin)
        written = []
        for shard, digest, images, captions in split.shard_rows():
            own = images if modality == "image" else captions
            path = extract_plan.part_path(folder, shard)
            tables.write_teacher_part(
                path,
                modality=modality,
                keys=keys[own.start : own.stop],
                contents=wanted.slice(own.start, len(own)),
                embeddings=rows.take(at[own.start : own.stop]),
                metadata={**rows.metadata, "shard": shard, "shard_sha256": digest, "fidelity": "{}"},
            )
            written.append(path)
            on_event(f"{rows.teacher} on {split.name}", own.stop, len(at))
        for stale in set(folder.glob("[0-9]*.parquet")) - set(written):
            stale.unlink()
        return stage.finish(outputs=written, counts={"rows": len(at), "computed": 0, "width": rows.width})
