"""The paper's tables: the packaged figures are the published ones, and every column takes the number it names."""

import csv
from pathlib import Path

import pytest

from cusa.eval import paper
from cusa.eval.tasks.registry import TASKS
from cusa.eval.tasks.sts import SETS
from cusa.manifests import datasets


@pytest.mark.parametrize("table", paper.TABLES, ids=lambda table: table.name)
def test_published__is_every_row_of_the_paper(shared: Path, table: paper.Table) -> None:
    with (shared / f"paper/{table.name}.csv").open(encoding="utf-8") as file:
        assert paper.published(table.name) == list(csv.DictReader(file))
    assert [column.key for column in table.columns] == list(paper.published(table.name)[0])[2:]


def test_columns__name_tasks_and_data_sets_there_are() -> None:
    for table in paper.TABLES:
        for column in table.columns:
            if column.dataset:
                assert column.dataset in datasets.names()
                assert column.task in TASKS or (column.task == "sts" and column.metric in SETS)


def test_published__averages_are_means_of_their_columns() -> None:
    """So that the same mean of ours stands beside them. One printed decimal each."""
    for table in paper.TABLES:
        alone = [column.key for column in table.columns if column.dataset]
        for row in paper.published(table.name) if len(alone) < len(table.columns) else []:
            assert float(row["avg"]) == pytest.approx(sum(float(row[key]) for key in alone) / len(alone), abs=0.11), row


def test_rows__numbers_of_other_data_do_not_fill_a_column() -> None:
    task = {"protocol": "by class", "metrics": {"r@1": 12.5}}
    given = [{"dataset": name, "tasks": {"image-to-image": task}} for name in ("cub", "scenes", "sop")]
    found = paper.rows(given)
    assert [(cell.column, cell.value, cell.protocol) for cell in found] == [
        ("CUB R@1", 12.5, "by class"),
        ("SOP R@1", 12.5, "by class"),
    ]
    whole = [
        {"dataset": name, "tasks": {"image-to-image": task}} for name in ("cub", "sop", "in-shop", "inaturalist-2018")
    ]
    assert paper.rows(whole)[-1][:3] == ("Image retrieval (uni-modal)", "average", 12.5)


def test_rows__regions_stand_where_their_pictures_do() -> None:
    told = {f"{way}/r@{k}": 10.0 * k for way in ("image-to-text", "text-to-image") for k in (1, 5, 10)}
    tasks = {"cross-modal": {"protocol": "own pairs", "metrics": {**told, "rsum": 320.0}}}
    coco = {"dataset": "coco_precomp", "images": 5000, "captions": 25_000, "tasks": tasks}
    flickr = {"dataset": "f30k_precomp", "images": 1000, "captions": 5000, "tasks": tasks}
    found = {cell.column: cell.value for cell in paper.rows([coco, flickr])}
    assert (found["COCO 5K, RSUM"], found["Flickr30K 1K, RSUM"]) == (320.0, 320.0)
    assert len(found) == 14
    part = {**coco, "images": 1000, "captions": 5000}
    assert paper.rows([part]) == [], "a part of the test images is not COCO 5K"


def test_rows__a_part_of_the_official_split_is_told(tmp_path: Path) -> None:
    task = {"protocol": "by class", "metrics": {"r@1": 12.5}}
    cut = {"dataset": "sop", "split": "test", "images": 156, "tasks": {"image-to-image": task}}
    whole = {**cut, "images": datasets.load("sop").counts["test"].images}
    assert [row.size for row in paper.rows([cut])] == [f"156 of {whole['images']:,} images"]
    assert [row.size for row in paper.rows([whole])] == [f"{whole['images']:,} images"]
    assert (paper.is_part(cut), paper.is_part(whole)) == (True, False)
