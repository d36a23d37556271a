"""Appending to a work folder: what was there stays byte for byte, what is new gets tars of its own behind it."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import ledger, samples, schemas
from cusa.manifests.ledger import Ledger
from cusa.manifests.records import ImageRecord, utf8
from cusa.manifests.samples import SPLIT_FILES
from cusa.manifests.storage import store
from cusa.pipeline.shard.images import Refused, stored_digest
from cusa.pipeline.shard.plan import Plan
from cusa.pipeline.shard.tar import usable_captions

TABLES = (*SPLIT_FILES, "drops.parquet")
NOTE = "append.json"
"""What a folder held before an append that is not finished."""


@dataclass(frozen=True)
class Base:
    """The state of a work folder that is being appended to."""

    old: Ledger
    rows: Mapping[str, Mapping[str, int]]
    """Split -> table -> its rows before the append; the tables of a killed append may have more already."""

    def tables(self, folder: Path, name: str) -> Iterator[pa.Table]:
        """Give a table of a split as it was, one row group after another; nothing if the split is new."""
        rest = self.rows.get(folder.name, {}).get(name, 0)
        if not rest:
            return
        for table in store.table_batches(folder / name):
            if rest <= 0:
                return
            yield table.slice(0, rest)
            rest -= table.num_rows

    def has_sources(self, folder: Path) -> bool:
        """Tell whether the captions of a split had a column of sources."""
        return any("source" in table.column_names for table in islice(self.tables(folder, "captions.parquet"), 1))

    def first_number(self, folder: Path) -> int:
        """Return the number of the first new tar of a split."""
        names = [name for table in self.tables(folder, "shards.parquet") for name in table["shard"].to_pylist()]
        return 1 + int(Path(names[-1]).stem) if names else 0


def interrupted(out: Path) -> dict[str, Any] | None:
    """Return the note of an append that was killed, if one was; one that ended but for its note is none."""
    if not (out / NOTE).is_file():
        return None
    note: dict[str, Any] = store.read_json(out / NOTE)
    done = ledger.read(out / "shard.ledger.json")
    return None if done and note["addition"] in appended(done.inputs).values() else note


def appended(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return those of a ledger's inputs that were appended."""
    return {name: digest for name, digest in inputs.items() if name.startswith("appended-")}


def begin(out: Path, *, addition: str, parameters: Mapping[str, Any]) -> tuple[Base, dict[str, str]]:
    """Note what a work folder holds before an append, so that a killed one can go on from there.

    Args:
        out: the work folder.
        addition: digest of what is to be appended.
        parameters: of the sharding; they must be the folder's own.

    Returns:
        The state before, and the inputs that the new ledger will name.

    Raises:
        DataError: if nothing was sharded here yet.
        StaleError: if another append was interrupted.
        ConfigError: if the parameters are others than the folder's.
    """
    note_path = out / NOTE
    if (note := interrupted(out)) is not None:
        base = Base(Ledger(**note["ledger"]), note["rows"])
        if note["addition"] != addition:
            raise StaleError(
                f"Another append to {out} was interrupted. Run it again first, or shard anew with --force.", path=out
            )
    else:
        old = ledger.read(out / "shard.ledger.json")
        if old is None:
            raise DataError(
                f"{out} holds no finished shards to append to. Run `cusa shard` without --append.", path=out
            )
        names = samples.splits(out)
        rows = {n: {file: store.num_rows(out / n / file) for file in TABLES} for n in names}
        base = Base(old, rows)
        store.write_json(note_path, {"addition": addition, "ledger": asdict(old), "rows": rows})
    for name in {*parameters, *base.old.parameters} - {"dataset"}:
        if parameters.get(name) != base.old.parameters.get(name):
            note_path.unlink()
            raise ConfigError(
                f"{out} was sharded with {name} {base.old.parameters.get(name)!r}, not {parameters.get(name)!r}. "
                "Append with the same, or shard anew with --force.",
                path=out,
            )
    number = 1 + len(appended(base.old.inputs))
    return base, {**base.old.inputs, f"appended-{number:03d}": addition}


def end(out: Path) -> None:
    """Forget the state before: the append is finished."""
    (out / NOTE).unlink(missing_ok=True)


def remove_what_is_there(plan: Plan, out: Path, base: Base) -> Counter[str]:
    """Take out of a plan every image that the folder has, and refuse those it has with another content.

    Another content is another split, label, role, name, text or source of a text, or (where images are stored as they
    are) other bytes.

    Returns:
        How many images and captions were there already, unchanged.
    """
    there = Counter[str]()
    as_they_are = not base.old.parameters.get("resize")
    for name in base.rows:
        folder = out / name
        texts: dict[str, list[tuple[str, str]]] = {}
        for table in base.tables(folder, "captions.parquet"):
            for key, text, made_by in _rows(samples.with_caption_sources(table), "key", "text", "source"):
                texts.setdefault(key, []).append((text, made_by))
        for table in base.tables(folder, "samples.parquet"):
            for key, label, role, source, sha256, ext in _rows(
                table, "key", "label", "role", "source", "sha256", "ext"
            ):
                record = plan.find(key)
                if record is None:
                    continue
                plan.remove(key)
                known = sha256 if as_they_are and ext else ""
                described = (record.split, utf8(record.label), record.role, utf8(record.source))
                unchanged = described == (name, label, role, source) and (record.path is not None) == bool(ext)
                if unchanged and _same_content(record, texts.get(key, []), known):
                    there.update(image=1, caption=len(record.captions))
                else:
                    plan.refuse(record, "duplicate-key", "the work folder has it with other content")
    return there


def _same_content(record: ImageRecord, texts: list[tuple[str, str]], sha256: str) -> bool:
    if [(caption["text"], caption["source"]) for caption in usable_captions(record)[0]] != texts:
        return False
    if not sha256 or record.path is None:
        return True
    try:
        return stored_digest(record) == sha256
    except Refused:
        return True  # gone from the source, kept here


def _rows(table: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    yield from zip(*(table[column].to_pylist() for column in columns), strict=True)


def old_and_new_drops(
    base: Base, folder: Path, kept: Collection[str], new: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return a split's earlier drops, without those of images kept now, and new ones that say anything else."""
    old = [row for table in base.tables(folder, "drops.parquet") for row in table.to_pylist() if row["key"] not in kept]
    known = {tuple(row[name] for name in schemas.DROPS.names) for row in old}
    return old + [row for row in new if tuple(row[name] for name in schemas.DROPS.names) not in known]
