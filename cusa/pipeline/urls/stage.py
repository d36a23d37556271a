"""Fetching a table of URLs: planned, fetched in units, summed up; killed at any moment it goes on."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import ledger
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig, UrlsConfig
from cusa.pipeline.engine import LOCAL, Engine, WarmPool, Workers, available_cores, run_units
from cusa.pipeline.urls import plan as plans
from cusa.pipeline.urls import summary
from cusa.pipeline.urls.plan import DROPS, FETCHED, GONE, PLAN, Planned

SETTINGS = "settings.json"
"""What decides the bytes of what was fetched, and what the data is called."""

_OF_CONTENT = ("max_bytes", "max_pixels", "min_side", "resize", "quality", "robots", "refused_tags")
_BATCH = 16  # units that one process gets at once, at most


def run(
    config: UrlsConfig,
    *,
    table: Path,
    out: Path,
    reading: ReadConfig | None = None,
    retry: bool = False,
    force: bool = False,
    engine: Engine = LOCAL,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Fetch the pictures of a table of URLs into tars; every URL is kept, or dropped with its reason.

    A URL that stands in several rows is fetched once. Of a table that changed only what is new is fetched; what is gone
    stays in its tar and is listed in `gone.parquet`. In a folder of img2dataset's, its pictures count as fetched.

    Args:
        config: bounds, patience, and how many at once.
        table: CSV, TSV, JSONL or Parquet, with columns of URLs and captions.
        out: the folder: `fetched/00000.tar` and beside it `00000.parquet`, what came of each URL.
        reading: the columns' names, the data set's name, and the split of rows that name none.
        retry: try again what failed. Tars to which nothing is added stay as they are.
        force: fetch everything again.
        engine: where units are fetched; on a cluster `out` must be reachable from every machine.
        on_event: called with every finished batch of units.

    Returns:
        The outcome; counts has rows, URLs, those kept and dropped, bytes that came, tars, and URLs that are gone.

    Raises:
        ConfigError: if the HTTP client is not installed.
        DataError: if the table cannot be read, or no URL gave a picture.
        StaleError: if the folder was fetched with other bounds.
    """
    _need_client()
    reading = reading or ReadConfig()
    if not table.is_file():
        raise DataError(f"{table} does not exist or is no file. Check the path.", path=table)
    name = reading.dataset or re.sub(r"[^A-Za-z0-9_-]+", "_", table.stem)[:64]
    content: dict[str, Any] = config.model_dump(mode="json", include={*_OF_CONTENT})
    parameters = {**reading.model_dump(exclude={"train_classes", "image_column"}), **content, "dataset": name}
    inputs = {"table": store.sha256_file(table)}
    reason = "--retry failed" if retry and _failed(out) else None
    stage = StageRun("download", out / "ledger.json", inputs=inputs, parameters=parameters, force=force, reason=reason)
    if stage.up_to_date:
        return stage.reuse()
    if not force:
        _refuse_other_bounds(out, content)
    from cusa.pipeline.urls.unit import fetch

    with stage.begin(), WarmPool(fetch, config.workers, engine) as pool:
        if force:
            store.remove_folder(out / FETCHED)
            (out / PLAN).unlink(missing_ok=True)
        store.make_folder(out / FETCHED)
        store.sweep(out / FETCHED)
        store.write_json(out / SETTINGS, {"dataset": name, "content": content})

        def on_row(what: str, done: int, total: int) -> None:
            if done > config.rows:  # there will be more than one unit
                pool.start()
            on_event(what, done, total)

        planned, rows = _plan(config, table, out, reading, content=content, on_event=on_row)
        tars = _fetch(config, planned, out, content, retry=retry, pool=pool, on_event=on_event)
        _remove_strays(out, planned, tars)
        totals = summary.write(out, name=name)
        if not totals["kept"]:
            raise DataError(
                f"None of the {totals['dropped']:,} URLs of {table} gave a picture. {out / summary.PAGE} has the "
                f"reasons, {out / DROPS} the rows that were refused.",
                path=out,
            )
        gone = store.num_rows(out / GONE)
        files = [out / name for name in (PLAN, GONE, DROPS, SETTINGS, summary.SUMMARY, summary.PAGE)]
        files += [file for one in planned for file in (out / FETCHED).glob(f"{one.number:05d}.*parquet")]
        counts = {"rows": rows, "urls": totals["kept"] + totals["dropped"], **totals, "tars": len(tars), "gone": gone}
        return stage.finish(
            outputs=[*files, *(out / name for name in tars)], counts=counts, digests=tars, notes=_notes(out, counts)
        )


def _need_client() -> None:
    try:
        import aiohttp  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise ConfigError(
            "Fetching a table of URLs needs aiohttp, which is not installed. Run `pip install 'cusa[urls]'`."
        ) from error


def _failed(out: Path) -> bool:
    done = ledger.read(out / "ledger.json")
    return done is None or bool(done.counts.get("dropped"))


def _refuse_other_bounds(out: Path, content: dict[str, Any]) -> None:
    """Refuse to throw away what was fetched because a bound changed.

    Raises:
        StaleError: naming the first setting that differs.
    """
    if not (out / SETTINGS).is_file() or not (out / PLAN).is_file():
        return
    before = store.read_json(out / SETTINGS).get("content", {})
    for name, value in content.items():
        if before.get(name) != value:
            raise StaleError(
                f"{out} was fetched with {name}={before.get(name)!r}, and {value!r} is asked for. Fetch into another "
                "folder, or everything again with --force.",
                path=out,
                setting=name,
            )


def _unit_digest(content: dict[str, Any], urls: str) -> str:
    return store.digest([content, urls])


def _plan(
    config: UrlsConfig, table: Path, out: Path, reading: ReadConfig, *, content: dict[str, Any], on_event: OnEvent
) -> tuple[list[Planned], int]:
    """Write the plan; return its units and the table's rows."""
    from cusa.pipeline.urls.adopt import adopt

    with plans.make(table, out, reading, rows_a_unit=config.rows, on_event=on_event) as plan:
        last = max((row["unit"] for row in plans.read(out)), default=-1)
        finished = [(out / FETCHED / f"{number:05d}.parquet").is_file() for number in range(last + 1)]
        plan.keep(plans.read(out), finished)
        if last < 0:
            last = adopt(out, plan, config, lambda urls: _unit_digest(content, urls)) - 1
        return plan.write(out, last + 1), plan.rows


def _fetch(
    config: UrlsConfig,
    planned: Sequence[Planned],
    out: Path,
    content: dict[str, Any],
    *,
    retry: bool,
    pool: WarmPool,
    on_event: OnEvent,
) -> dict[str, str]:
    """Fetch every unit that is due; return the tars that there are, and their digests."""
    from cusa.pipeline.urls.unit import Batch, Unit, fetch

    units = [Unit(out, one.number, one.group, _unit_digest(content, one.digest), retry) for one in planned]
    rows = {one.number: one.rows for one in planned}
    workers = config.workers or available_cores()
    size = max(1, min(_BATCH, math.ceil(len(units) / (4 * workers))))
    per_host = max(1, config.per_host // min(workers, math.ceil(len(units) / size) or 1))
    batches = [Batch(units[at : at + size], config, per_host) for at in range(0, len(units), size)]
    done = run_units(
        fetch,
        batches,
        what="fetch",
        workers=Workers(config.workers, pool.engine, pool=pool),
        weigh=lambda batch: sum(rows[unit.number] for unit in batch.units),
        on_event=on_event,
    )
    return {one.tar: one.sha256 for of_batch in done for one in of_batch if one.tar}


def _remove_strays(out: Path, planned: Sequence[Planned], tars: dict[str, str]) -> None:
    """Remove what no unit of the plan names: a tar whose table a kill prevented, a unit that is planned no more."""
    numbers = {f"{one.number:05d}" for one in planned}
    for file in (out / FETCHED).iterdir():
        stem = file.name.partition(".")[0]
        if stem not in numbers or (file.suffix == ".tar" and f"{FETCHED}/{file.name}" not in tars):
            file.unlink(missing_ok=True)


def _notes(out: Path, counts: dict[str, int]) -> tuple[str, ...]:
    notes = []
    if counts["dropped"]:
        notes.append(f"Every URL's reason stands in {out}/{FETCHED}/*.parquet; `--retry failed` tries those again.")
    if counts["gone"]:
        notes.append(f"{counts['gone']:,} URLs are gone from the table; their pictures stay and are not read.")
    return tuple(notes)
