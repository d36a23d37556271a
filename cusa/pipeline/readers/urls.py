"""What `cusa download TABLE` fetched: pictures by their place in its tars, and every URL that gave none as a drop."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys, ledger, schemas
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows

_BY_CONTENT = (".parquet", ".tar")


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a folder that a table of URLs was fetched into; of a table itself, `cusa shard urls` fetches it first.

    Args:
        source: the folder that `cusa download TABLE --out` wrote.
        images: not used.
        config: the data set's name, if it is to have another one.

    Raises:
        DataError: if nothing was fetched there, or fetching did not end.
    """
    if not (source / "urls.parquet").is_file():
        raise DataError(
            f"{source} holds nothing that was fetched. Run `cusa download TABLE --out {source}` first.", path=source
        )
    done = ledger.read(source / "ledger.json")
    if done is None:
        raise DataError(f"{source}: fetching did not end. Run the same `cusa download` again.", path=source)
    dataset = config.dataset or str(store.read_json(source / "settings.json")["dataset"])
    names = [name for name in done.digests if name.endswith(_BY_CONTENT) and ".log." not in name]
    files = {"fetched": store.digest({name: done.digests[name] for name in names if name != "summary.parquet"})}
    return Reading(dataset, Rows(lambda: _rows(source, dataset)), files)


def _caption(text: str, made_by: str) -> CaptionRecord:
    return CaptionRecord("", text, source=made_by)


def _rows(source: Path, dataset: str) -> Iterator[Row]:
    for table in store.table_batches(source / "drops.parquet"):
        for row in table.to_pylist():
            yield Drop(**{name: row[name] for name in ("split", *schemas.DROPS.names)})
    for planned in store.table_batches(source / "urls.parquet"):
        unit = planned["unit"][0].as_py()
        table = store.read_table(source / "fetched" / f"{unit:05d}.parquet", columns=schemas.FETCHED.names)
        for row, fetched in zip(planned.to_pylist(), table.to_pylist(), strict=True):
            if row["key"] != fetched["key"]:
                raise DataError(
                    f"{source}: unit {unit} is not the plan's. Run the same `cusa download` again.", path=source
                )
            if not row["live"]:
                continue
            key = keys.image_key(dataset, row["item"] or row["key"])
            if fetched["status"] != "kept":
                status = f"HTTP {fetched['http_status']}" if fetched["http_status"] else ""
                detail = "; ".join(dict.fromkeys(word for word in (status, fetched["detail"]) if word))
                yield Drop(row["split"], key, row["url"], "image", fetched["reason"], detail)
                for text in row["captions"]:
                    what = f"its image was dropped: {text[:200]!r}"
                    yield Drop(row["split"], key, row["url"], "caption", fetched["reason"], what)
                continue
            yield ImageRecord(
                key,
                row["split"],
                source / fetched["file"],
                row["url"],
                tuple(map(_caption, row["captions"], row["caption_sources"])),
                row["label"],
                offset=fetched["offset"],
                length=fetched["bytes"],
                sha256=fetched["sha256"],
                other_key=keys.image_key(dataset, row["key"]) if row["item"] else "",
            )
