"""Sharding: images with their captions into deterministic WebDataset tars, and the tables that describe them."""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger, lock, samples, schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.records import Drop, ImageRecord
from cusa.manifests.samples import SPLIT_FILES, splits
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.manifests.storage.paths import is_remote, named_remote_errors
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.engine import LOCAL, Engine, WarmPool, Workers, run_units
from cusa.pipeline.readers import Reading, refuse_own_source
from cusa.pipeline.shard import append as appending
from cusa.pipeline.shard import plan as plans
from cusa.pipeline.shard import tar
from cusa.pipeline.shard.append import Base
from cusa.pipeline.shard.plan import Item, Plan

LEDGER = "shard.ledger.json"
DUPLICATES = "duplicates.parquet"
_SCHEMAS = {
    "samples.parquet": schemas.SAMPLES,  # first opened, last to appear: where it is, a split is taken to be whole
    "captions.parquet": schemas.CAPTIONS,
    "drops.parquet": schemas.DROPS,
    "shards.parquet": schemas.SHARDS,
}
_COUNTS = [f"{kind}s_{what}" for kind in ("image", "caption") for what in ("read", "kept", "dropped")]
_ROWS = 10_000  # handled at once


def run(
    config: ShardConfig,
    *,
    reading: Reading,
    out: Path,
    append: bool = False,
    force: bool = False,
    engine: Engine = LOCAL,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write every split of a data set as tars with tables.

    Rows in = rows kept + rows dropped; every dropped row stands in `<split>/drops.parquet` with its reason. The same
    inputs give the same bytes, whatever the number of processes. A killed run goes on where it was.

    Args:
        config: sizes, bounds, and how images are stored.
        reading: the rows of a reader.
        out: the work folder.
        append: keep what the folder holds, byte for byte, and write only images it does not have, into new tars.
        force: write again even if nothing changed.
        engine: where the tars are made; on a cluster, `out` and the images must be reachable from every machine.
        on_event: called with every finished tar.

    Returns:
        The outcome; counts has images and captions read, kept and dropped.

    Raises:
        ConfigError: if `out` is the work folder that is read, or one of the two lies in the other.
        DataError: if nothing at all could be kept, or `out` cannot be written.
        StaleError: if the folder holds another data set, or was appended to, and this would lose what was.
    """
    if reading.work is not None:
        refuse_own_source(reading.work, out)
    clock = ledger.Clock()
    parameters = {"dataset": reading.dataset, **config.model_dump(exclude={"workers"})}
    old = ledger.read(out / LEDGER)
    pool = WarmPool(tar.write, config.workers, engine)
    rows = _starting(reading.rows, pool, config.max_images) if append or force or old is None else reading.rows
    with pool, plans.make(rows, on_event=on_event) as plan:
        inputs = {**reading.files, "images": plan.digest}
        why = _why(out, inputs, parameters, old, append=append, force=force)
        stage = StageRun(
            "shard", out / LEDGER, inputs=inputs, parameters=parameters, force=force, reason=why or "", clock=clock
        )
        if stage.up_to_date:
            assert old is not None
            _tidy(out, old)
            return stage.reuse()
        if not append and (nothing := _nothing_there(plan)):
            # Learnt only while tars are written it would cost those that are there: a disk may not be mounted.
            raise DataError(nothing, path=out)
        if not (append or force):
            _refuse_another_data_set(out, old, reading.dataset)
        # Nothing may be written into a split while its tars are; what reads it is not stopped.
        others = () if is_remote(out) else sorted(out.glob(f"*/**/{store.LOCK}"))
        with lock.holding(out / store.LOCK, unless_held=others):
            return _shard(stage, config, reading, plan, pool, append=append, force=force, on_event=on_event)


def _shard(
    stage: StageRun,
    config: ShardConfig,
    reading: Reading,
    plan: Plan,
    pool: WarmPool,
    *,
    append: bool,
    force: bool,
    on_event: OnEvent,
) -> Outcome:
    """Write what a plan holds, and the ledger."""
    out, inputs, parameters, old = stage.out, stage.inputs, stage.parameters, stage.before
    base = None
    there = Counter[str]()
    if append:
        base, inputs = appending.begin(out, addition=store.digest(inputs), parameters=parameters)
        parameters = dict(base.old.parameters)
        there = appending.remove_what_is_there(plan, out, base)
    else:
        appending.end(out)
    with stage.begin():
        written, counts = _write(config, plan, out, base, pool, force=force, on_event=on_event)
        for kind in ("image", "caption"):
            now = [counts[f"{kind}s_{what}"] for what in ("kept", "dropped")]
            counts[f"{kind}s_read"] = plan.read[kind]
            assert plan.read[kind] == sum(now) + there[kind], (kind, plan.read, counts, there)
        if not counts["images_kept"] and not base:
            message = _why_nothing(plan, out, counts)
            if old is None:
                _remove_empty_tables(plan, out)
            raise DataError(message, path=out)
        for name, table in reading.truth.items():
            if (out / name / "samples.parquet").is_file():
                written.append(_write_truth(table, out / name, base))
        if old is not None or base:
            written = _with_older(out, base.old if base else old, written, keep=base is not None)
        names = sorted({file.parent.name for file in written if file.name == "samples.parquet"})
        duplicates, copies, across = _write_duplicates(plan, out, names)
        total = _count(out, names) if base else counts
        outcome = stage.finish(
            inputs=inputs,
            parameters=parameters,
            outputs=[*written, duplicates],
            counts={name: total[name] for name in _COUNTS} | {"shards": sum(f.suffix == ".tar" for f in written)},
            digests=_tar_digests(out, names),
            notes=_notes(out, counts, there, copies, across) + reading.notes,
        )
    done = ledger.read(stage.ledger_path)
    assert done is not None
    _tidy(out, done)
    return outcome


def _tidy(out: Path, done: ledger.Ledger) -> None:
    """Remove what only an unfinished run needs; a kill after the ledger leaves that to the next run."""
    for name in done.outputs:
        folder, _, file = name.rpartition("/")
        if file == "samples.parquet" and (out / folder / tar.UNITS).is_dir():
            store.remove_folder(out / folder / tar.UNITS)
    appending.end(out)


def _why(
    out: Path,
    inputs: Mapping[str, str],
    parameters: Mapping[str, Any],
    old: ledger.Ledger | None,
    *,
    append: bool,
    force: bool,
) -> str | None:
    """Say why the folder must be written; None if it is up to date."""
    more = appending.appended(old.inputs) if old else {}
    if append:
        if old is None or store.digest(inputs) not in more.values():
            return "rows to append"
        if broken := ledger.why_not_current(old, out, inputs=old.inputs, parameters=old.parameters):
            raise DataError(f"{out}: {broken}. Restore it, or shard anew with --force.", path=out)
        return None
    if force:
        return "--force"
    # What was appended is part of the folder; the source it was first made of need not know of it.
    why = ledger.why_not_current(old, out, inputs={**inputs, **more}, parameters=parameters)
    if appending.interrupted(out):
        why, more = "an append was interrupted", {"": ""}
    if why and more:
        raise StaleError(
            f"{out} was appended to; sharding it anew ({why}) would lose those rows. "
            "Add rows with --append, or start again from this source alone with --force.",
            path=out,
        )
    return why


def _starting(rows: Iterable[Item], pool: WarmPool, after: int) -> Iterator[Item]:
    """Give rows, and start the workers once there will be more than one tar."""
    for number, row in enumerate(rows):
        if number == after:
            pool.start()
        yield row


def _write(
    config: ShardConfig,
    plan: Plan,
    out: Path,
    base: Base | None,
    pool: WarmPool,
    *,
    force: bool,
    on_event: OnEvent,
) -> tuple[list[Path], Counter[str]]:
    """Write the tars and tables of every split that the plan names; return the files and what was kept and dropped."""
    units: dict[Path, list[tar.Unit]] = {}
    for folder in [out / name for name in plan.splits()]:
        store.sweep(folder)
        store.sweep(folder / tar.UNITS)
        if force:
            store.remove_folder(folder / tar.UNITS)
        if base is None:
            for file in _SCHEMAS:
                (folder / file).unlink(missing_ok=True)
        units[folder] = _units(config, plan, folder, base.first_number(folder) if base else 0)
    every = [unit for of_split in units.values() for unit in of_split]
    counts = Counter[str]()
    finished, place = set[int](), 0

    def on_result(number: int) -> None:
        # The tables grow while tars are still written; a row group a tar, in the plan's order.
        nonlocal place
        finished.add(number)
        while place in finished:
            next(growing, None)
            place += 1

    with contextlib.closing(_all_tables(units, plan, base, counts)) as growing:
        next(growing, None)
        run_units(
            tar.write,
            every,
            what="shard",
            workers=Workers(config.workers, pool.engine, pool=pool),
            on_result=on_result,
            on_event=on_event,
        )
    written = []
    for folder, of_split in units.items():
        written += [unit.tar for unit in of_split if unit.tar.is_file()]
        written += [folder / name for name in _SCHEMAS]
    return written, counts


def _units(config: ShardConfig, plan: Plan, folder: Path, first: int) -> list[tar.Unit]:
    """Cut a split into tars and write down what each is to hold."""
    settings = config.model_dump(exclude={"workers"})
    units = []
    cut = plan.tars(folder.name, max_images=config.max_images, max_bytes=config.max_bytes)
    for number, (digest, rows) in enumerate(cut, first):
        units.append(tar.Unit(folder, number, config, store.digest([settings, digest])))
        with named_os_errors(units[-1].rows), named_remote_errors(units[-1].rows):
            store.make_folder(units[-1].rows.parent)
            units[-1].rows.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return units


def _all_tables(
    units: Mapping[Path, Sequence[tar.Unit]], plan: Plan, base: Base | None, counts: Counter[str]
) -> Generator[None]:
    """Write the tables of one split after the other; see `_tables`."""
    for folder, of_split in units.items():
        yield from _tables(folder, of_split, plan, base, counts)


def _tables(
    folder: Path, units: Sequence[tar.Unit], plan: Plan, base: Base | None, counts: Counter[str]
) -> Generator[None]:
    """Write a split's tables from its units' marks, a row group a tar; they appear together, after the last.

    Yields:
        Before each unit, which must be finished when the next step is asked for; closed early, nothing appears.
    """
    with contextlib.ExitStack() as stack:
        with_sources = plan.has_sources(folder.name) or (base is not None and base.has_sources(folder))
        columns = {**_SCHEMAS, "captions.parquet": _captions(with_sources)}
        writers = {
            name: stack.enter_context(store.table_writer(folder / name, schema)) for name, schema in columns.items()
        }

        def add(name: str, rows: pa.Table | list[dict[str, Any]]) -> None:
            if len(rows):
                table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=columns[name])
                if name == "captions.parquet":
                    table = samples.with_caption_sources(table).select(columns[name].names)
                writers[name].write_table(table)

        if base:
            for name in SPLIT_FILES:
                for table in base.tables(folder, name):
                    add(name, table)
                    if name == "samples.parquet":
                        plan.contents(_images(folder.name, table))
        kept: set[str] = set()
        collected: list[dict[str, Any]] = []

        def refuse(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                counts[f"{row['kind']}s_dropped"] += 1
            if base:
                collected.extend(rows)
            else:
                add("drops.parquet", rows)

        for rows in plans.chunks(plan.drops(folder.name), _ROWS):
            refuse(rows)
        for unit in units:
            yield
            mark = tar.read_mark(unit)
            refuse(mark.drops.to_pylist())
            counts["images_kept"] += len(mark.samples)
            counts["captions_kept"] += len(mark.captions)
            if len(mark.samples):
                row = {"shard": mark.shard, "bytes": mark.bytes, "sha256": mark.sha256}
                add("shards.parquet", [{**row, "images": len(mark.samples), "captions": len(mark.captions)}])
                add("samples.parquet", mark.samples)
                add("captions.parquet", mark.captions)
                plan.contents(_images(folder.name, mark.samples))
                if base:
                    kept.update(mark.samples["key"].to_pylist())
        if base:
            add("drops.parquet", appending.old_and_new_drops(base, folder, kept, collected))


def _captions(with_sources: bool) -> pa.Schema:
    """Return the columns of a split's captions: no source is known of most data, and their tables say so by none."""
    return schemas.CAPTIONS.append(schemas.CAPTION_SOURCE) if with_sources else schemas.CAPTIONS


def _images(split: str, table: pa.Table) -> Iterator[tuple[str, str, str]]:
    """Give digest, split and key of every image; samples of texts alone have none."""
    columns = (table[name].to_pylist() for name in ("sha256", "key", "ext"))
    yield from ((sha256, split, key) for sha256, key, ext in zip(*columns, strict=True) if ext)


def _write_truth(source: Path, folder: Path, base: Base | None) -> Path:
    """Copy the known matches of the images and captions that were kept."""
    truth = store.read_table(source, columns=schemas.TRUTH.names)
    for column, file, key in (
        ("image_key", "samples.parquet", "key"),
        ("caption_key", "captions.parquet", "caption_key"),
    ):
        kept = store.read_table(folder / file, columns=[key])[key].combine_chunks()
        truth = truth.filter(pc.is_in(truth[column], value_set=kept))
    truth, path = truth.cast(schemas.TRUTH), folder / "truth.parquet"
    if base and path.is_file():
        truth = pa.concat_tables([store.read_table(path), truth]).group_by(schemas.TRUTH.names).aggregate([])
        truth = truth.sort_by([(name, "ascending") for name in schemas.TRUTH.names]).cast(schemas.TRUTH)
    store.write_table(path, truth)
    return path


def _write_duplicates(plan: Plan, out: Path, names: Iterable[str]) -> tuple[Path, int, int]:
    """Write down every image whose bytes another one has too; return the file, the copies, and those in other splits.

    One image of each content is the original and no copy, the first by split and key.
    """
    for name in set(names) - set(plan.splits()):  # what an append did not touch
        for table in store.table_batches(out / name / "samples.parquet", columns=["sha256", "key", "ext"]):
            plan.contents(_images(name, table))
    copies = across = 0
    first = ("", "")
    with store.table_writer(out / DUPLICATES, schemas.DUPLICATES) as writer:
        for rows in plans.chunks(plan.equal_contents(), _ROWS):
            writer.write_table(
                pa.Table.from_pylist([dict(zip(schemas.DUPLICATES.names, row, strict=True)) for row in rows])
            )
            for sha256, split, _ in rows:
                if sha256 != first[0]:
                    first = (sha256, split)
                else:
                    copies += 1
                    across += split != first[1]
    return out / DUPLICATES, copies, across


def _refuse_another_data_set(out: Path, old: ledger.Ledger | None, dataset: str) -> None:
    """Refuse to replace a data set by another one: tars may be the only copy of its images."""
    before = old.parameters.get("dataset") if old is not None else None
    if before not in (None, dataset):
        raise StaleError(
            f"{out} holds the data set {before!r}, and {dataset!r} would replace it. Give another --out, --append to "
            f"add to it, --dataset {before} if it is the same data, or --force to replace it.",
            path=out,
        )


def _nothing_there(plan: Plan) -> str:
    """Say so if not one of the images that the rows name is there; empty if one is, and if there are texts alone."""
    there, missing, first = plan.files()
    if there:
        return ""
    drops = [row for name in plan.splits() for row in plan.drops(name)]
    if first is not None:
        drops = [
            Drop(first.split, first.key, first.source, "image", "missing", _why_missing(first)).row()
        ] * missing + drops
    return _nothing(drops, plan.read["image"], plan.read["caption"])


def _why_missing(row: ImageRecord) -> str:
    try:
        assert row.path is not None
        row.path.stat()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return "it came back meanwhile"


def _why_nothing(plan: Plan, out: Path, counts: Mapping[str, int]) -> str:
    drops = [row for name in plan.splits() for row in store.read_table(out / name / "drops.parquet").to_pylist()]
    return _nothing(drops, counts["images_read"], counts["captions_read"])


def _nothing(drops: Sequence[Mapping[str, Any]], images: int, captions: int) -> str:
    kind = "image" if images else "caption"  # a table's row that cannot be read has no image
    reasons = Counter(row["reason"] for row in drops if row["kind"] == kind)
    listed = f" ({', '.join(f'{number:,} {reason}' for reason, number in reasons.most_common())})" if reasons else ""
    because = f" The first: {drops[0]['source']}: {drops[0]['reason']} ({drops[0]['detail']})." if drops else ""
    if kind == "caption":
        return f"None of the {captions} rows could be read{listed}.{because} Mend the file."
    return f"None of the {images} images could be kept{listed}.{because} Check --images."


def _remove_empty_tables(plan: Plan, out: Path) -> None:
    """Remove what a first call wrote that kept nothing; whatever else lies in the folder stays."""
    for name in plan.splits():
        store.remove_folder(out / name / tar.UNITS)
        for table in ("samples", "captions", "shards", "drops"):
            (out / name / f"{table}.parquet").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: it holds something else
            (out / name).rmdir()


def _with_older(out: Path, old: ledger.Ledger | None, written: list[Path], *, keep: bool) -> list[Path]:
    """Return what was written with what an append keeps; where nothing is kept, older files are removed."""
    older = [out / name for name in (old.outputs if old else ()) if name != DUPLICATES]
    older = [file for file in older if file not in set(written)]
    if keep:
        return [*written, *older]
    for file in older:
        file.unlink(missing_ok=True)
    return written


def _count(out: Path, names: Iterable[str]) -> Counter[str]:
    """Count what a folder holds after an append, all its sources together."""
    total = Counter[str]()
    for name in names:
        total["images_kept"] += store.num_rows(out / name / "samples.parquet")
        total["captions_kept"] += store.num_rows(out / name / "captions.parquet")
        for table in store.table_batches(out / name / "drops.parquet", columns=["kind"]):
            total.update(f"{kind}s_dropped" for kind in table["kind"].to_pylist())
    for kind in ("images", "captions"):
        total[f"{kind}_read"] = total[f"{kind}_kept"] + total[f"{kind}_dropped"]
    return total


def _tar_digests(out: Path, names: Iterable[str]) -> dict[str, str]:
    tables = ((name, store.read_table(out / name / "shards.parquet")) for name in names)
    return {f"{name}/{row['shard']}": row["sha256"] for name, table in tables for row in table.to_pylist()}


def _dropped(folder: Path) -> list[str]:
    """Return the reason of each row that a split dropped."""
    path = folder / "drops.parquet"
    return store.read_table(path, columns=["reason"])["reason"].to_pylist() if path.is_file() else []


def _notes(out: Path, counts: Mapping[str, int], there: Mapping[str, int], copies: int, across: int) -> tuple[str, ...]:
    sums = [
        f"{kind.capitalize()}s: {counts[f'{kind}s_read']} read = {counts[f'{kind}s_kept']} kept + "
        f"{counts[f'{kind}s_dropped']} dropped{f' + {there[kind]} there already' if there[kind] else ''}."
        for kind in ("image", "caption")
    ]
    notes = [" ".join(sums)]
    if counts["images_dropped"] or counts["captions_dropped"]:
        reasons = Counter(reason for name in splits(out) for reason in _dropped(out / name))
        listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(5))
        notes.append(f"Dropped: {listed} (`cusa list drop-reasons`). Each stands in {out}/<split>/drops.parquet.")
    if copies:
        notes.append(f"{copies} images have the bytes of another one; {out}/{DUPLICATES} names them.")
    if across:
        notes.append(f"{across} images stand in more than one split (same bytes): test figures on them are not honest.")
    return tuple(notes)
