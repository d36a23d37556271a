"""The parts of a stage's result, one a unit: made by whoever has time, kept until all are there, then merged.

    <stage>/.units/<key>/packed/     what every unit needs, computed once
    <stage>/.units/<key>/0000.parquet   the part of the first unit, stamped with the digest of what it was made from
    <stage>/.units/<key>/ranges/     which units the tasks of a scheduler's array were asked for

The key is a digest of the stage's inputs and settings. A part counts as made when its stamp is that of the unit and
every page is what was written; so a stage that was killed goes on, with another engine too.
"""

import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import ConfigError, DataError
from cusa.manifests import lock, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import packed, store
from cusa.manifests.storage.paths import is_remote
from cusa.manifests.words import counted
from cusa.pipeline.engine import Workers, run_units
from cusa.pipeline.units.sharing import current

FOLDER = ".units"
"""Where the parts of a stage lie while it works, in the stage's folder."""
_PACKED, _RANGES = "packed", "ranges"
_CLAIM = "[0-9]*-[0-9]*.json"
_UNITS = 4096  # of a stage at most, about


@dataclass(frozen=True)
class Unit:
    """Some consecutive rows, and the file of their part."""

    rows: range
    path: Path
    stamp: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """What a stage does with its units; all of it can be sent to another process.

    Attributes:
        work: makes the part of some rows from what is shared.
        open_outside: gives what is shared but not packed, in a worker; called once a process.
        classes: of what is packed.
    """

    work: Callable[[Any, range], pa.Table]
    open_outside: Callable[[], Mapping[str, object]]
    classes: tuple[type, ...]


def table_of(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Return arrays as a table. `pa.array` would import pandas first, half a second of every worker's start.

    Args:
        columns: (n,) each, by name; numbers or bools.
    """
    arrays = {}
    for name, values in columns.items():
        whole = np.ascontiguousarray(values)
        data = np.packbits(whole, bitorder="little") if whole.dtype == np.bool_ else whole
        kind = pa.from_numpy_dtype(whole.dtype)
        arrays[name] = pa.Array.from_buffers(kind, len(whole), [None, pa.py_buffer(data)])
    return pa.table(arrays)


def units_of(rows: int, block: int, blocks_a_unit: int) -> list[range]:
    """Cut rows into units of whole blocks; a block is what is computed at once, so its bytes never depend on the cut.

    Args:
        rows: in all.
        block: rows that are computed at once.
        blocks_a_unit: of them at least; more where there would be thousands of units.
    """
    size = block * max(blocks_a_unit, -(-rows // (block * _UNITS)))
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


class Parts:
    """The parts of one stage, shared as `cusa.pipeline.units.sharing` says here.

    Args:
        folder: the stage's.
        what: the command's name and what it works on, for progress and messages.
        name: of these parts, where several stages work in the folder.
        key: a digest of all that decides what is made.
        task: what makes a part.
        locks: locks that nobody else may hold while parts are made.
    """

    def __init__(
        self, folder: Path, *, what: str, key: str, task: Task, name: str = "", locks: Sequence[Path] = ()
    ) -> None:
        self.what, self._key, self._task, self._locks = what, key, task, list(locks)
        self._stage_folder, self._all = folder, folder / FOLDER / name
        self._folder = self._all / key[:16]
        self._sharing = current()
        self._digest, self._empty = "", False

    @property
    def some_only(self) -> bool:
        """Whether this process shall make some parts and leave it to another to put them together."""
        return self._sharing.only is not None and not self._sharing.only.merges

    @property
    def merges_only(self) -> bool:
        """Whether this process shall put parts together and make none."""
        return self._sharing.only is not None and self._sharing.only.merges

    @property
    def locks(self) -> list[Path]:
        """Locks that nobody may hold while the parts are put together: those of ranges that are being made too."""
        claims = self._all.glob(f"*/{_RANGES}/{_CLAIM}")  # of other settings too: their parts are removed
        return [*self._locks, *(claim.parent / claim.stem / store.LOCK for claim in sorted(claims))]

    def check(self, rows: Sequence[range]) -> None:
        """Check that what is only to be put together was made, before the stage withdraws what it had.

        Args:
            rows: of each unit.

        Raises:
            DataError: if some units were not made.
        """
        self._empty = not rows
        if not self.merges_only or self._empty:
            return
        self._digest = packed.digest_of(self._folder / _PACKED)
        if not self._digest:
            raise self._nothing_made()
        units = [self._unit(number, some) for number, some in enumerate(rows)]
        self._refuse_holes(units, [number for number, unit in enumerate(units) if not _is_stamped(unit)])

    def prepare(self, compute: Callable[[], Any], outside: Mapping[str, object], *, force: bool = False) -> Any:
        """Return what every unit needs: as it was packed before, else computed, and packed if others need it.

        Args:
            compute: computes it.
            outside: what of it is not packed, by name.
            force: throw away what was made before, unless it is only to be put together.

        Raises:
            DataError: if parts are only to be put together and none was made.
        """
        folder, only = self._folder / _PACKED, self._sharing.only
        if force and only is None:
            self.remove()
        if packed.digest_of(folder):
            value, self._digest = packed.read(folder, classes=self._task.classes, outside=outside)
            return value
        if self.merges_only and not self._empty:
            raise self._nothing_made()
        value = compute()
        taken = packed.pack(value, classes=self._task.classes, outside=outside)
        self._digest = taken.digest
        if self._elsewhere or only is not None:
            packed.write(folder, taken)
        return value

    def make(
        self, shared: Any, rows: Sequence[range], *, threads: int = 1, on_event: OnEvent = ignore
    ) -> Iterator[pa.Table]:
        """Make the parts that are not there yet, then give all of them in their order.

        Args:
            shared: what `prepare` returned.
            rows: of each unit.
            threads: that share the units where one process of this machine makes them.
            on_event: called with every part: rows done.

        Raises:
            DataError: if parts are only to be put together and some were not made.
        """
        units = [self._unit(number, some) for number, some in enumerate(rows)]
        if len(units) == 1 and not self._elsewhere and self._sharing.only is None:
            on_event(self.what, 0, len(rows[0]))
            yield self._task.work(shared, rows[0])  # nothing to go on from
            on_event(self.what, len(rows[0]), len(rows[0]))
            return
        missing = [number for number, unit in enumerate(units) if not _is_made(unit)]
        if self._sharing.only is not None:
            self._refuse_holes(units, missing)
        self._work_on(shared, units, [units[number] for number in missing], on_event, threads)
        for unit in units:
            yield store.read_table(unit.path)

    def make_some(
        self,
        stage: StageRun,
        compute: Callable[[], Any],
        outside: Mapping[str, object],
        rows: Sequence[range],
        *,
        on_event: OnEvent = ignore,
    ) -> Outcome:
        """Make the parts that this process was asked for, and no others.

        Args:
            stage: whose parts they are.
            compute: see `prepare`; only one of several processes that begin together computes.
            outside: see `prepare`.
            rows: of each unit.
            on_event: called with every part: rows done.

        Raises:
            ConfigError: if there are no such units, or another task at work has some of them too.
            BusyError: if another process makes just these, or puts the stage together.
        """
        assert self._sharing.only is not None
        numbers = self._sharing.only.of(len(rows))
        busy = [self._stage_folder / store.LOCK, *self._locks]
        if numbers:
            claim = self._folder / _RANGES / f"{numbers.start:06d}-{numbers.stop:06d}.json"
            with lock.holding(claim.parent / claim.stem / store.LOCK, unless_held=busy):
                self._claim(claim, numbers)
                shared = contextvars.copy_context().run(self._prepare_alone, compute, outside)
                units = [self._unit(number, rows[number]) for number in numbers]
                self._work_on(shared, units, [unit for unit in units if not _is_made(unit)], on_event)
        done = (
            f"the units {numbers.start}:{numbers.stop} of {len(rows)} are made" if numbers else "there is no unit here"
        )
        note = f"{self.what}: {done}. When all are, put them together with --unit-range merge."
        counts = {"units": len(numbers), "units_in_all": len(rows)}
        return Outcome(stage.name, stage.out, True, stage.why, counts, stage.seconds, (note,))

    def remove(self, *, others: bool = True) -> None:
        """Remove the parts of the stage.

        Args:
            others: those of other inputs and settings too, which only whoever holds the stage's lock may.
        """
        store.remove_folder(self._all if others else self._folder)
        for folder in () if is_remote(self._all) else (self._all, self._stage_folder / FOLDER):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _prepare_alone(self, compute: Callable[[], Any], outside: Mapping[str, object]) -> Any:
        lock.wait_for_others()
        with lock.holding(self._folder / store.LOCK):
            return self.prepare(compute, outside)

    def _nothing_made(self) -> DataError:
        return DataError(
            f"No unit of `{self.what}` was made with these inputs and settings: {self._folder} is not there. Make "
            "them with --unit-range FIRST:STOP or K/N, or leave --unit-range out.",
            path=self._folder,
        )

    def _refuse_holes(self, units: Sequence[Unit], missing: Sequence[int]) -> None:
        if missing:
            all_units = counted(len(units), "unit")
            raise DataError(
                f"Of {all_units} of `{self.what}` these were not made: {', '.join(unit_ranges(missing))}. "
                "Make them with --unit-range, or leave it out: then this process makes them.",
                units=unit_ranges(missing),
            )

    @property
    def _elsewhere(self) -> bool:
        workers = self._sharing.workers
        return workers.count != 1 or workers.engine.kind != "local"

    def _unit(self, number: int, rows: range) -> Unit:
        stamp = {"made_from": self._digest, "key": self._key, "rows": f"{rows.start}:{rows.stop}"}
        return Unit(rows, self._folder / f"{number:04d}.parquet", stamp)

    def _work_on(
        self, shared: Any, units: Sequence[Unit], missing: Sequence[Unit], on_event: OnEvent, threads: int = 1
    ) -> None:
        total = sum(len(unit.rows) for unit in units)
        before = total - sum(len(unit.rows) for unit in missing)
        store.make_folder(self._folder)
        store.sweep(self._folder)
        function: Callable[[Unit], None]
        if self._elsewhere:
            function = functools.partial(_make_in_worker, self._task, self._folder / _PACKED, self._digest)
        else:
            function = functools.partial(_make, self._task, shared)
        run_units(
            function,
            missing,
            what=self.what,
            workers=self._sharing.workers if self._elsewhere else Workers(1, threads=threads),
            weigh=lambda unit: len(unit.rows),
            on_event=lambda what, done, _: on_event(what, before + done, total),
        )

    def _claims(self) -> list[Path]:
        return sorted((self._folder / _RANGES).glob(_CLAIM))

    def _claim(self, claim: Path, numbers: range) -> None:
        """Write down which units this process makes, and refuse them if another at work now has some of them.

        Own claim first, then a look at the others': of two that overlap, one at least sees the other. A task that ended
        is in nobody's way: the units that a killed one left are another's to make.
        """
        mine = not claim.is_file()
        store.write_json(claim, [numbers.start, numbers.stop])
        for other in self._claims():
            first, stop = (int(word) for word in other.stem.split("-"))
            if other.name == claim.name or first >= numbers.stop or numbers.start >= stop:
                continue
            if (who := lock.holder(other.parent / other.stem / store.LOCK)) is not None:
                if mine:
                    claim.unlink(missing_ok=True)
                asked = f"{numbers.start}:{numbers.stop}"
                raise ConfigError(
                    f"--unit-range: the units {asked} overlap {first}:{stop}, which {who} is making. Give every unit "
                    "to one task (K/N does), or run this one again when that one has ended.",
                    option="--unit-range",
                    value=asked,
                )


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a stage of several kinds of parts, of each of which `make_some` made some.

    Args:
        outcomes: of each kind, at least one.
    """
    counts = {name: sum(one.counts[name] for one in outcomes) for name in outcomes[0].counts}
    notes = tuple(note for one in outcomes for note in one.notes)
    return replace(outcomes[-1], counts=counts, notes=notes)


def _make(task: Task, shared: Any, unit: Unit) -> None:
    table = task.work(shared, unit.rows)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    store.write_table(unit.path, table.replace_schema_metadata({**metadata, **unit.stamp}))


_opened: dict[str, Any] = {}


def _make_in_worker(task: Task, folder: Path, digest: str, unit: Unit) -> None:
    if digest not in _opened:
        _opened.clear()
        # Whoever hands out the units has read every number of it.
        value, _ = packed.read(folder, classes=task.classes, outside=task.open_outside(), prove=False)
        _opened[digest] = value
    _make(task, _opened[digest], unit)


def _is_stamped(unit: Unit) -> bool:
    metadata, _ = tables.describe_part(unit.path)
    return all(metadata.get(key) == value for key, value in unit.stamp.items())


def _is_made(unit: Unit) -> bool:
    if not _is_stamped(unit):
        return False
    try:
        store.read_table(unit.path)
    except DataError:
        return False
    return True


def unit_ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending numbers as ranges, as --unit-range takes them."""
    out: list[list[int]] = []
    for number in numbers:
        if out and out[-1][1] == number:
            out[-1][1] += 1
        else:
            out.append([number, number + 1])
    return [f"{first}:{stop}" for first, stop in out]
