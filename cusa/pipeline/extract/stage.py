"""Extraction: the embeddings of a frozen teacher, once an image or text, beside the shards they belong to."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import ledger, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.origin import origin_of, read_origin, teacher_name, write_origin
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models.teachers.base import Teacher
from cusa.models.teachers.registry import load_teacher, resolve, weights_digest
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.engine import LOCAL, Engine, Workers, run_units
from cusa.pipeline.extract import plan as extract_plan
from cusa.pipeline.extract.plan import Unit
from cusa.pipeline.extract.unit import Done, Job, do_unit, do_unit_in_worker


def run(
    config: ExtractConfig,
    *,
    split: Split,
    teacher: str,
    modality: str,
    force: bool = False,
    engine: Engine = LOCAL,
    on_event: OnEvent = ignore,
    load: Callable[[str, str], Teacher] = load_teacher,
) -> Outcome:
    """Write the teacher tables of one split, one part a shard, rows in the shard's order.

    Each distinct image or text is embedded once. Rows whose content an older part of the same teacher holds are copied
    from there; so a grown data set costs what was added. A killed run goes on where it was, with the same batches.

    Args:
        config: batch size, numbers, text transform, workers.
        split: the split to embed.
        teacher: name, folder or the tables' own name; see `cusa.models.teachers.registry.resolve`.
        modality: `image` or `text`.
        force: embed again even if nothing changed.
        engine: where the parts are made; workers of their own load the teacher by its name.
        on_event: called with every batch; where workers embed, with every part.
        load: makes the teacher in this process; called only if there is something to embed.

    Returns:
        The outcome; counts has the rows and those that were computed now, notes the fidelity of the numbers.

    Raises:
        ConfigError: if the tables there are those of another teacher of the same name.
        DataError: if the teacher's folder is not there; if an image's bytes are not those that were sharded, or cannot
            be decoded; if the teacher gives a row that is not of unit length.
    """
    name, loads, weights = resolve(split, teacher, modality, name=config.name)
    folder = split.folder / "teachers" / name
    transform = config.transform if modality == "text" else "rgb"
    inputs = {"split": split.digest}
    stamp = {
        "teacher": name,
        "modality": modality,
        "weights_sha256": weights,
        "dtype": config.dtype,
        "transform": transform,
        "precision_asked": config.precision,
    }
    if not loads:
        _refuse_to_remake(folder, split, modality, inputs=inputs, parameters=stamp, force=force)
    stage = StageRun("extract-teachers", folder / "ledger.json", inputs=inputs, parameters=stamp, force=force)
    if stage.up_to_date:
        if not stage.asked:
            store.remove_folder(folder / extract_plan.WORKSHOP)
            _remember(folder, loads)
        return stage.reuse()
    kept = functools.cache(load)
    if not weights_digest(loads):
        kept(loads, modality)  # a hub model lies on this disk only once it was loaded
        stamp["weights_sha256"] = weights_digest(loads)
    origin = origin_of(loads)
    if not force:
        extract_plan.refuse_another_teacher(folder, origin=origin, stamp=stamp)
    with stage.begin(unless_held=split.locks):
        if stage.before is not None:  # what a finished run left of its workshop is no part of this run
            store.remove_folder(folder / extract_plan.WORKSHOP)
        digests = stage.before.digests if stage.before else {}
        write_origin(folder, origin)
        every = extract_plan.contents(split, modality, transform)
        pool = extract_plan.begin(folder, split, stamp, modality, every=every, digests=digests, force=force)
        shared, parts = extract_plan.units(folder, split, every, pool, stamp=stamp, modality=modality)
        del every
        job = Job(split.work.resolve(), split.name, split.digest, loads, modality, transform, config)
        computed = _run(job, [shared, parts], split=split, engine=engine, on_event=on_event, load=kept)

        written = [extract_plan.part_path(folder, shard) for shard, *_ in split.shard_rows()]
        for stale in set(folder.glob("[0-9]*.parquet")) - set(written):
            stale.unlink()
        card = _card(written)
        total = split.num_images if modality == "image" else split.num_captions
        width = tables.part_width(written[0]) if written else 0
        store.remove_folder(folder / extract_plan.WORKSHOP)
        outcome = stage.finish(
            outputs=written,
            counts={"rows": total, "computed": computed, "width": width, **card},
            notes=_notes(card, config.dtype),
        )
        store.remove_folder(folder / extract_plan.WORKSHOP)
    return outcome


def _refuse_to_remake(
    folder: Path,
    split: Split,
    modality: str,
    *,
    inputs: Mapping[str, str],
    parameters: Mapping[str, str],
    force: bool,
) -> None:
    """Refuse to make tables again whose teacher came from a folder that is not there; as they stand they may serve.

    Raises:
        DataError: if they would have to be made again.
    """
    before = ledger.read(folder / "ledger.json")
    why = "--force" if force else ledger.why_not_current(before, folder, inputs=inputs, parameters=parameters)
    if why:
        raise DataError(
            f"{folder} would have to be made again ({why}), and the teacher's folder is not there"
            f"{f' ({origin})' if (origin := read_origin(folder)) else ''}. Say where it lies now: `cusa "
            f"extract-teachers {split.work} --{modality} FOLDER --as {folder.name}`.",
            path=folder,
        )


def _remember(folder: Path, teacher: str) -> None:
    """Write down where a teacher lies now, so that its tables' name is enough to find it."""
    origin = origin_of(teacher) if teacher else ""
    if origin and origin != read_origin(folder):
        with contextlib.suppress(DataError):  # tables on a read-only disk serve as well
            write_origin(folder, origin)


def _run(
    job: Job,
    stages: list[list[Unit]],
    *,
    split: Split,
    engine: Engine,
    on_event: OnEvent,
    load: Callable[[str, str], Teacher],
) -> int:
    """Do all units; return how many rows were computed."""
    total = sum(len(unit.compute) for units in stages for unit in units)
    here = engine.kind == "local" and job.config.workers <= 1
    what = f"{job.config.name or teacher_name(job.teacher)} on {job.split}"
    shown = 0
    on_event(what, 0, total)

    def on_rows(rows: int) -> None:
        nonlocal shown
        shown += rows
        on_event(what, shown, total)

    computed = 0
    for units in stages:
        function: Callable[[Unit], Done]
        if here:
            function = functools.partial(
                do_unit, job, split=split, load=lambda: load(job.teacher, job.modality), on_rows=on_rows
            )
        else:
            function = functools.partial(do_unit_in_worker, job)
        before = shown

        def finished(_: str, done: int, __: int, before: int = before) -> None:
            on_event(what, before + done, total)

        results = run_units(
            function,
            units,
            what=what,
            workers=Workers(1) if here else Workers(job.config.workers, engine, gpus=True),
            weigh=lambda unit: len(unit.compute),
            on_event=ignore if here else finished,
        )
        if not here:
            shown = before + sum(len(unit.compute) for unit in units)
        computed += sum(result.computed for result in results)
    return computed


def _card(parts: list[Path]) -> dict[str, float]:
    """Join the fidelity cards of all parts: how far stored rows are from rows computed and kept in float32."""
    cards = [json.loads(tables.read_part_metadata(part).get("fidelity", "{}")) for part in parts]
    cards = [card for card in cards if card]
    if not cards:
        return {}
    rows = sum(card["rows"] for card in cards)
    return {
        "fidelity_rows": rows,
        "fidelity_mean_row": sum(card["mean_row"] * card["rows"] for card in cards) / rows,
        "fidelity_worst_row": max(card["worst_row"] for card in cards),
        "fidelity_worst_pair": max(card["worst_pair"] for card in cards),
    }


def _notes(card: Mapping[str, float], dtype: str) -> tuple[str, ...]:
    if not card:
        return ()
    return (
        f"Fidelity of {dtype} against float32 on a sample of {card['fidelity_rows']:,} rows: 1 - cosine of a row "
        f"{card['fidelity_worst_row']:.1e} at most ({card['fidelity_mean_row']:.1e} on average), cosines of pairs off "
        f"by {card['fidelity_worst_pair']:.1e} at most.",
    )
