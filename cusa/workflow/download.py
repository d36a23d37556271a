"""Bringing a data set's raw files: fetched by its manifest, or drawn."""

from collections.abc import Iterable
from pathlib import Path

from cusa import recipe as recipes
from cusa.errors import ConfigError, nearest
from cusa.manifests import ledger
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.stage import Outcome, outcome
from cusa.manifests.storage import store

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
        only_failed: try only the files that failed the last time.
        settings: `key=value` of `ScenesConfig`, or of `DownloadConfig` for a manifest.
        force: bring it again.
        on_event: hears of every image, or of bytes.

    Raises:
        ConfigError: for an unknown data set or setting.
        DataError: if a file could not be fetched or a person has to bring it.
    """
    if name != "scenes":
        from cusa.manifests import datasets
        from cusa.pipeline.config import DownloadConfig
        from cusa.pipeline.download import stage as stage

        if name not in datasets.names() and not name.endswith(".toml"):
            allowed = ("scenes", *datasets.names())
            raise ConfigError(f"There is no data set {name!r} to bring. {nearest(name, allowed)}", dataset=name)
        return stage.run(
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
    clock = ledger.Clock()
    book = out / "ledger.json"
    parameters = {"dataset": name, **config.model_dump()}
    why = "--force" if force else ledger.why_not_current(book, inputs={}, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(out, old)
    with store.whole_folder(out) as folder:
        scenes.run(config, out=folder, on_event=on_event)
        for split in ("train", "val", "test"):
            store.write_table(folder / f"truth-{split}.parquet", scenes.load_truth(folder, split))
        files = [file for file in folder.glob("*") if file.is_file()]
        counts = {"images": config.train + config.val + config.test}
        done = clock.finish(
            folder / "ledger.json", stage="download", inputs={}, parameters=parameters, outputs=files, counts=counts
        )
    return outcome(out, done, why=str(why))
