"""Tables of what there is to choose from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cusa import recipe as recipes
from cusa.errors import ConfigError, nearest
from cusa.eval.tasks import metrics
from cusa.manifests import tables
from cusa.manifests.origin import read_origin
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.workflow.download import SCENES


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
    from cusa.models.teachers.catalogue import CATALOGUE
    from cusa.pipeline.readers import READERS

    header: tuple[str, ...] = ("name", "what it is")
    tables_: dict[str, Callable[[], list[tuple[str, ...]]]] = {
        "datasets": lambda: [("scenes", SCENES, "", ""), *_datasets()],
        "layouts": lambda: [(name, _first_sentence(reader)) for name, reader in READERS.items()],
        "recipes": lambda: [(name, *_recipe_row(name)) for name in recipes.packaged()],
        "teachers": lambda: list(CATALOGUE.items()),
        "drop-reasons": lambda: list(REASONS.items()),
    }
    if what not in tables_:
        raise ConfigError(f"There is no list of {what!r}. {nearest(what, tables_)}", what=what)
    if work is None:
        more = {"datasets": ("counts", "licence"), "recipes": ("expected",)}
        return (*header, *more.get(what, ())), tables_[what]()
    if what == "teachers":
        opened = [Split(work, name) for name in splits(work)]
        rows: list[tuple[str, ...]] = [
            (split.name, name, kind, read_origin(split.folder / "teachers" / name) or "not written down")
            for split in opened
            for name, kind in tables.teachers(split).items()
        ]
        return ("split", "teacher", "modality", "made from"), rows
    if what == "drop-reasons":
        counted: dict[tuple[str, str, str], int] = {}
        for name in splits(work):
            for row in store.read_table(work / name / "drops.parquet").to_pylist():
                place = (name, row["kind"], row["reason"])
                counted[place] = counted.get(place, 0) + 1
        return ("split", "kind", "reason", "rows"), [(*place, str(rows)) for place, rows in sorted(counted.items())]
    raise ConfigError(f"--data does not go with {what!r}; it goes with teachers and drop-reasons.", what=what)


def _datasets() -> list[tuple[str, ...]]:
    """Return name, title, images a split, and terms of each packaged manifest."""
    from cusa.manifests import datasets

    rows: list[tuple[str, ...]] = []
    for name in datasets.names():
        manifest = datasets.load(name)
        counts = ", ".join(f"{split} {count.images:,}" for split, count in manifest.counts.items() if count.images)
        rows.append((name, manifest.title, counts, manifest.licence))
    return rows


def _recipe_row(name: str) -> tuple[str, str]:
    """Return what a recipe is, and the main ones of the figures it should come to."""
    recipe = recipes.load(name)
    main = [f"{metric} {value}" for metric, value in recipe.expected.items() if metrics.is_main(metric)]
    return recipe.description, ", ".join(main)


def _first_sentence(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]
