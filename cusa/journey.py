"""What needs several rooms at once: training with validation, evaluation of a run, the report, the demo.

Each function returns values and tells progress through `on_event`; none prints. `cusa.cli` calls them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa import recipe as recipes
from cusa.errors import ConfigError, nearest
from cusa.manifests import ledger, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split, splits
from cusa.pipeline.stage import Outcome, outcome

if TYPE_CHECKING:
    pass

DATASETS = {"scenes": "drawn scenes with five captions each; every match between any two is known"}
"""Data sets that `cusa download` brings."""


def download(
    name: str, *, out: Path, settings: Iterable[str] = (), force: bool = False, on_event: OnEvent = ignore
) -> Outcome:
    """Bring a data set's raw files into `out`.

    Args:
        name: one of `DATASETS`.
        out: folder of the raw files; written whole.
        settings: `key=value` of the data set's configuration.
        force: bring it again.
        on_event: hears of every image.

    Raises:
        ConfigError: for an unknown data set or setting.
    """
    if name not in DATASETS:
        raise ConfigError(f"There is no data set {name!r} to bring. {nearest(name, DATASETS)}", dataset=name)
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


def catalogue(what: str, work: Path | None = None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a table of what there is to choose from.

    Args:
        what: `datasets`, `layouts`, `recipes`, `teachers` or `drop-reasons`.
        work: a work folder; then `teachers` are those whose tables lie there, and `drop-reasons` are counted.

    Returns:
        The header and the rows.

    Raises:
        ConfigError: if `what` is none of them.
    """
    from cusa.manifests.records import REASONS
    from cusa.models.teachers import CATALOGUE
    from cusa.pipeline.readers import READERS

    header: tuple[str, ...] = ("name", "what it is")
    tables_: dict[str, Callable[[], list[tuple[str, ...]]]] = {
        "datasets": lambda: list(DATASETS.items()),
        "layouts": lambda: [(name, _first_sentence(reader)) for name, reader in READERS.items()],
        "recipes": lambda: [(name, recipes.load(name).description) for name in recipes.packaged()],
        "teachers": lambda: list(CATALOGUE.items()),
        "drop-reasons": lambda: list(REASONS.items()),
    }
    if what not in tables_:
        raise ConfigError(f"There is no list of {what!r}. {nearest(what, tables_)}", what=what)
    if work is None:
        return header, tables_[what]()
    if what == "teachers":
        opened = [Split(work, name) for name in splits(work)]
        found: list[tuple[str, ...]] = [
            (split.name, name, kind) for split in opened for name, kind in tables.teachers(split).items()
        ]
        return ("split", "teacher", "modality"), found
    if what == "drop-reasons":
        counted: dict[tuple[str, str, str], int] = {}
        for name in splits(work):
            for row in store.read_table(work / name / "drops.parquet").to_pylist():
                place = (name, row["kind"], row["reason"])
                counted[place] = counted.get(place, 0) + 1
        return ("split", "kind", "reason", "rows"), [(*place, str(rows)) for place, rows in sorted(counted.items())]
    raise ConfigError(f"--data does not go with {what!r}; it goes with teachers and drop-reasons.", what=what)


def _first_sentence(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]
