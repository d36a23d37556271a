"""The paper's result tables: which of our numbers stands in which column, and the figures that were published.

`published/*.csv` hold every row of the tables as printed, one decimal: Huang et al., AAAI 2024,
doi 10.1609/aaai.v38i16.29789.
"""

import csv
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from cusa.eval.tasks.metrics import DIRECTIONS, title
from cusa.eval.tasks.sts import SETS
from cusa.manifests import datasets


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        key: its name in the CSV file.
        label: as people read it.
        dataset: whose evaluation it is; a data set of another name does not fill it.
        task: of that evaluation.
        metric: of that task.
    """

    key: str
    label: str
    dataset: str
    task: str
    metric: str


class Table(NamedTuple):
    """One table of the paper."""

    name: str
    """Of the CSV file."""
    title: str
    columns: tuple[Column, ...]


class Cell(NamedTuple):
    """One of our numbers in its place."""

    table: str
    column: str
    value: float
    protocol: str
    size: str
    """On how many images, and of how many where that is a part of the official split; empty for pairs of texts."""


_WAYS = [(DIRECTIONS[way][1], way, DIRECTIONS[way][0]) for way in ("image-to-text", "text-to-image")]


def _retrieval() -> tuple[Column, ...]:
    columns = []
    for start, name, dataset, task in (
        ("coco5k", "COCO 5K", "coco", "coco-5k"),
        ("flickr1k", "Flickr30K 1K", "flickr30k", "cross-modal"),
    ):
        for short, way, words in _WAYS:
            columns += [
                Column(f"{start}_{short}_r{k}", f"{name}, {words} {title(f'r@{k}')}", dataset, task, f"{way}/r@{k}")
                for k in (1, 5, 10)
            ]
        columns.append(Column(f"{start}_rsum", f"{name}, {title('rsum')}", dataset, task, "rsum"))
    return tuple(columns)


_ECCV = tuple(
    Column(f"{short}_{key}", f"{words} {title(metric)}", "coco", "eccv-caption", f"{way}/{metric}")
    for short, way, words in _WAYS
    for key, metric in (("map_at_r", "map_at_r"), ("r_precision", "r_precision"), ("r1", "r@1"))
)
_IMAGES = tuple(
    Column(key, f"{name} {title('r@1')}", dataset, "image-to-image", "r@1")
    for key, name, dataset in (
        ("cub_r1", "CUB", "cub"),
        ("sop_r1", "SOP", "sop"),
        ("inshop_r1", "In-Shop", "in-shop"),
        ("inaturalist_r1", "iNaturalist", "inaturalist-2018"),
    )
)
_STS = tuple(Column(name.lower().replace("-", ""), name, "sts", "sts", name) for name in SETS)
TABLES = (
    Table("retrieval", "Image-text retrieval on COCO and Flickr30K", _retrieval()),
    Table("eccv_caption", "ECCV Caption", _ECCV),
    Table("image_retrieval", "Image retrieval (uni-modal)", (*_IMAGES, Column("avg", "average", "", "", ""))),
    Table("sts", "Semantic textual similarity (uni-modal)", (*_STS, Column("avg", "average", "", "", ""))),
)
"""In the paper's order."""


_REGIONS = {"coco_precomp": "coco", "f30k_precomp": "flickr30k"}


def as_pictures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an evaluation on region features under the name of the pictures that they are of.

    Regions come without COCO's ids. Ranking all of its 5,000 test images with their own five captions each is COCO 5K
    all the same, and stands under that name too. Every other result comes back as it is.

    Args:
        result: what `metrics.json` holds.
    """
    name = _REGIONS.get(str(result.get("dataset")))
    if name is None:
        return result
    tasks = dict(result["tasks"])
    if name == "coco" and (result.get("images"), result.get("captions")) == (5000, 25_000) and "cross-modal" in tasks:
        tasks["coco-5k"] = tasks["cross-modal"]
    return {**result, "dataset": name, "tasks": tasks}


def is_part(result: Mapping[str, Any]) -> bool:
    """Tell whether an evaluation was made on another number of images than the official split has."""
    official = _official_images(result)
    return official is not None and "images" in result and result["images"] != official


def _official_images(result: Mapping[str, Any]) -> int | None:
    return datasets.official_images(str(result.get("dataset")), str(result.get("split")))


def _size(result: Mapping[str, Any]) -> str:
    if "images" not in result:
        return ""
    part = f" of {_official_images(result):,}" if is_part(result) else ""
    return f"{result['images']:,}{part} images"


def published(name: str) -> list[dict[str, str]]:
    """Return a table as printed: `model`, `method`, and the columns' keys."""
    text = (resources.files("cusa.eval") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def values(table: Table, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return our numbers for a table's columns, by key; the average where all of its columns are there.

    Args:
        table: one of `TABLES`.
        results: what `metrics.json` of each evaluation holds.
    """
    ours: dict[str, float] = {}
    results = [as_pictures(result) for result in results]
    for column in table.columns:
        for result in results:
            if column.dataset and result.get("dataset") == column.dataset:
                value = result["tasks"].get(column.task, {}).get("metrics", {}).get(column.metric)
                if value is not None:
                    ours[column.key] = float(value)
    alone = [column.key for column in table.columns if column.dataset]
    if len(alone) < len(table.columns) and all(key in ours for key in alone):
        ours["avg"] = sum(ours[key] for key in alone) / len(alone)
    return ours


def rows(results: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return every number that a table of the paper has a column for, in the paper's order."""
    cells = []
    results = [as_pictures(result) for result in results]
    for table in TABLES:
        ours = values(table, results)
        for column in table.columns:
            if column.key in ours:
                protocol, size = next(
                    (
                        (result["tasks"][column.task]["protocol"], _size(result))
                        for result in results
                        if result.get("dataset") == column.dataset and column.task in result["tasks"]
                    ),
                    ("mean of the columns", ""),
                )
                cells.append(Cell(table.title, column.label, ours[column.key], protocol, size))
    return cells
