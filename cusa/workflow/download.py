"""Bringing a data set's raw files: fetched by its manifest, by a table of URLs, or drawn."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cusa import recipe as recipes
from cusa.errors import ConfigError, nearest
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import is_remote

if TYPE_CHECKING:
    from cusa.pipeline.config import ReadConfig, ShardConfig
    from cusa.pipeline.engine import Engine

SCENES = "drawn scenes with five captions each; every match between any two is known"
"""The data set `scenes`, which is made and not fetched."""


def download(
    name: str,
    *,
    out: Path,
    lock: Path | None = None,
    only_failed: bool = False,
    settings: Iterable[str] = (),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Bring a data set's raw files into `out`.

    Args:
        name: `scenes`, a packaged manifest, or the path of one.
        out: folder of the raw files.
        lock: digests that another machine recorded.
        only_failed: leave alone what came the last time, with `force` too.
        settings: `key=value` of `ScenesConfig`, or of `DownloadConfig` for a manifest.
        force: bring it again.
        on_event: called with every image, or with bytes.

    Raises:
        ConfigError: for an unknown data set or setting.
        DataError: if a file could not be fetched or a person has to bring it.
    """
    if name != "scenes":
        from cusa.manifests import datasets
        from cusa.pipeline import download as downloading
        from cusa.pipeline.config import DownloadConfig

        if name not in datasets.names() and not name.endswith(".toml"):
            allowed = ("scenes", *datasets.names())
            raise ConfigError(f"There is no data set {name!r} to bring. {nearest(name, allowed)}", dataset=name)
        return downloading.run(
            recipes.section(DownloadConfig, settings),
            dataset=datasets.load(name),
            out=out,
            lock=lock,
            only_failed=only_failed,
            force=force,
            on_event=on_event,
        )
    from cusa.pipeline import scenes
    from cusa.pipeline.config import ScenesConfig

    config = recipes.section(ScenesConfig, settings)
    parameters = {"dataset": name, **config.model_dump()}
    stage = StageRun("download", out / "ledger.json", inputs={}, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    with stage.begin():
        with store.whole_folder(out) as folder:
            scenes.run(config, out=folder, on_event=on_event)
            for split in ("train", "val", "test"):
                store.write_table(folder / f"truth-{split}.parquet", scenes.load_truth(folder, split))
        return stage.finish(
            outputs=[file for file in store.files_below(out) if file.parent == out],
            counts={"images": config.train + config.val + config.test},
        )


def is_table(source: Path) -> bool:
    """Tell whether a place is called as a table is."""
    return source.suffix.lower() in (".csv", ".tsv", ".parquet", ".jsonl")


def folder_for(out: Path) -> Path:
    """Return the folder that pictures are fetched into on their way to a work folder: beside it."""
    return out.with_name(f"{out.name}-raw")


def fetch_for_shards(
    table: Path,
    *,
    raw: Path,
    reading: "ReadConfig",
    sharding: "ShardConfig",
    engine: "Engine",
    on_event: OnEvent = ignore,
) -> Outcome:
    """Fetch a table of URLs with the bounds that its shards will have.

    Args:
        table: the table.
        raw: the folder for what is fetched.
        reading: the columns' names.
        sharding: bounds of pictures, and how they are made smaller.
        engine: where to work.
        on_event: called with every finished part.

    Raises:
        ConfigError: if `raw` lies on another machine.
    """
    from cusa.pipeline import urls
    from cusa.pipeline.config import UrlsConfig

    if is_remote(raw):
        raise ConfigError(
            f"Pictures are fetched into a folder of this machine, and {raw} lies elsewhere. Name one with --images.",
            option="--images",
        )
    names = ("max_pixels", "min_side", "resize", "quality", "workers")
    config = UrlsConfig(**{name: getattr(sharding, name) for name in names})
    return urls.run(config, table=table, out=raw, reading=reading, engine=engine, on_event=on_event)


def next_command(name: str, out: Path) -> str:
    """Return the command that makes use of a data set's raw files.

    Args:
        name: as `download` takes it.
        out: folder of the raw files.
    """
    from cusa.manifests import datasets

    title, reader, source = "scenes", "karpathy", "dataset_scenes.json"
    if name != "scenes":
        manifest = datasets.load(name)
        title, reader, source = manifest.name, manifest.reader, manifest.source
    if not reader:  # judgements and ratings serve the work folder of the data set that they are of
        return f"cusa eval RUN --data WORK --data {out}"
    return (
        f"cusa eval RUN --data {out}" if reader == "sts" else f"cusa shard {reader} {out / source} --out work/{title}"
    )
