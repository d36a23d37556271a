"""Candidates as tasks for Label Studio: which, in which order, with what; annotations as verdicts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.integrations import label_studio
from cusa.manifests import schemas
from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work

CANDIDATES: list[tuple[int, int, float | None, float]] = [
    (0, 2, None, 0.99),
    (0, 3, 0.10, 0.50),
    (1, 0, 0.25, 0.40),
    (1, 4, 0.25, 0.60),
    (2, 0, 0.0, 0.95),
    (2, 3, 0.20, 0.10),
]
"""Image row, caption row, worth of a verdict, score."""
BEST = [(1, 4), (1, 0), (2, 3), (0, 3), (0, 2), (2, 0)]
"""By worth, those of none last, then by score."""


@pytest.fixture
def split(tmp_path: Path) -> Split:
    split = Split(make_work(tmp_path, images=3, captions=2, splits=("val",)), "val")
    rows = [
        {
            **{"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]},
            **{"worth": worth, "score": score, "image_rank": 3 if worth else None},
        }
        for image, caption, worth, score in CANDIDATES
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    store.write_table(split.folder / "audit/candidates.parquet", table)
    return split


def _pairs(split: Split, out: Path) -> list[tuple[int, int]]:
    tasks = json.loads((out / "val" / label_studio.TASKS).read_text())
    return [
        (split.image_row[task["data"]["image_key"]], split.caption_row[task["data"]["caption_key"]]) for task in tasks
    ]


def test_write__the_candidates_that_are_worth_most_and_not_judged(split: Split, tmp_path: Path) -> None:
    files, notes = label_studio.write(split, tmp_path / "a")
    assert files == [tmp_path / "a/val" / name for name in (label_studio.TASKS, label_studio.LABELING)]
    assert (_pairs(split, tmp_path / "a"), notes) == (BEST, ())
    with Journal(split.folder / "audit") as journal:
        for number, (image, caption) in enumerate((BEST[0], BEST[2])):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, "match", **keys))
    _, notes = label_studio.write(split, tmp_path / "b", limit=3)
    assert _pairs(split, tmp_path / "b") == [BEST[1], BEST[3], BEST[4]]
    assert notes == ("3 further candidates are judged already or left out; --limit takes more.",)


def test_write__what_a_task_shows(split: Split, tmp_path: Path) -> None:
    label_studio.write(split, tmp_path, limit=5)
    tasks = [task["data"] for task in json.loads((tmp_path / "val" / label_studio.TASKS).read_text())]
    for (image, caption), data in zip(BEST, tasks, strict=False):
        assert data["image"] == label_studio._picture(split, image)
        assert data["owner_image"] == label_studio._picture(split, caption // 2)
        assert data["image"] != data["owner_image"]
        assert data["own_captions"] == f"{split.texts[2 * image]}\n{split.texts[2 * image + 1]}"
        assert (data["caption"], data["split"]) == (split.texts[caption], "val")
        assert data["candidates_sha256"] == store.sha256_file(split.folder / "audit/candidates.parquet")
    assert [data["score"] for data in tasks] == pytest.approx([0.6, 0.4, 0.1, 0.5, 0.99])
    assert [data.get("image_rank") for data in tasks] == [3, 3, 3, 3, None]


def _task(split: Split, *annotations: dict[str, Any]) -> dict[str, Any]:
    data = {"split": "val", "image_key": split.image_keys[0], "caption_key": split.caption_keys[2], "score": 0.5}
    return {"data": data, "annotations": list(annotations)}


def _said(word: str, **more: Any) -> dict[str, Any]:
    result = [{"from_name": "other", "value": {"text": ["x"]}}, {"from_name": "verdict", "value": {"choices": [word]}}]
    return {"id": 1, "result": result, "created_at": "2026-01-02T10:00:00+02:00", **more}


@pytest.mark.parametrize(
    ("person", "reviewer"),
    [
        ({"completed_by": 7}, "label-studio 7"),
        ({"completed_by": {"id": 7}}, "label-studio 7"),
        ({"completed_by": {"id": 7, "email": "a@b"}}, "label-studio a@b"),
        ({}, "label-studio"),
    ],
)
def test_read__who_said_what_when(split: Split, tmp_path: Path, person: dict[str, Any], reviewer: str) -> None:
    source = tmp_path / "export.json"
    later = _said("match", updated_at="2026-01-03T08:00:00Z", **person)
    cancelled = {**_said("match", created_at="2026-01-04T08:00:00Z", **person), "was_cancelled": True, "id": 2}
    source.write_text(json.dumps([_task(split, cancelled, later), _task(split, _said("no match", **person))]))
    assert label_studio.read(split.work, source) == {"val": 3}
    rows = verdicts.read(split.folder / verdicts.FOLDER)
    assert [(row.verdict, row.judged_at.isoformat()) for row in rows] == [
        ("no match", "2026-01-02T08:00:00+00:00"),
        ("match", "2026-01-03T08:00:00+00:00"),
        ("skip", "2026-01-04T08:00:00+00:00"),
    ]
    assert {row.reviewer for row in rows} == {reviewer}
    assert {(row.image_key, row.caption_key, row.score) for row in rows} == {
        (split.image_keys[0], split.caption_keys[2], 0.5)
    }
    source.write_text(json.dumps([_task(split, _said("match", created_at="2026-01-02T10:00:00"))]))
    with pytest.raises(DataError, match="no ISO 8601 time with a zone"):
        label_studio.read(split.work, source)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": None}, "task 1 has no split in its data"),
        ({"image_key": 7}, "task 1 has no image_key in its data"),
        ({"caption_key": None}, "task 1 has no caption_key in its data"),
        ({"split": "vall"}, r"there is no split 'vall'\. Did you mean 'val'"),
        ({"caption_key": "mini/none#0"}, "has no 'mini/none#0'. Nothing was taken"),
    ],
)
def test_read__a_task_of_something_else_is_refused(
    split: Split, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    source = tmp_path / "export.json"
    task = _task(split, _said("match"))
    source.write_text(json.dumps([{**task, "data": {**task["data"], **change}}]))
    with pytest.raises(DataError, match=words):
        label_studio.read(split.work, source)
    assert not (split.folder / "audit" / verdicts.JOURNAL).exists()
