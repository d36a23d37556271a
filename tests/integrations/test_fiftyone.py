"""A split for FiftyOne: what an image's label says of its best candidate."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.integrations import fiftyone, rows
from cusa.integrations.rows import Known
from cusa.manifests.samples import Split
from tests.worlds import make_work

CASES: list[tuple[int, int, float | None, str]] = [
    (3, 1, 0.9, "judged match"),
    (0, 1, None, "judged match"),
    (3, 0, 0.5, "likely"),
    (3, 0, 0.49, "possible"),
    (1, 0, None, "possible"),
    (0, 0, None, "none"),
]
"""Candidates, judged matches, probability of the best -> the label."""


def test_write__a_label_an_image_by_what_is_known_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(make_work(tmp_path, images=len(CASES), captions=1, splits=("val",)), "val")
    near = [
        {"ids": [(row + 1) % len(CASES), (row + 2) % len(CASES)], "distances": [0.0, 0.0]} for row in range(len(CASES))
    ]
    columns: dict[str, Any] = {
        "key": split.image_keys,
        "label": [f"class {row}" for row in range(len(CASES))],
        "candidates": [case[0] for case in CASES],
        "judged_matches": [case[1] for case in CASES],
        "best_p_positive": [case[2] for case in CASES],
    }
    asked: list[str] = []

    def of_images(split: Split, *, teacher: str = "") -> Known:
        asked.append(teacher)
        return Known(columns, "eyes", near, ("a note",))  # type: ignore[arg-type]

    monkeypatch.setattr(rows, "of_images", of_images)
    files, notes = fiftyone.write(split, tmp_path / "out", image="eyes")
    assert (asked, notes) == (["eyes"], ("a note",))
    content = json.loads((tmp_path / "out/val/labels.json").read_text())
    names = [key.replace("/", "-") for key in split.image_keys]
    assert list(content["labels"]) == names
    assert content["classes"] == ["judged match", "likely", "possible", "none"]
    for row, (name, (candidates, judged, p_positive, word)) in enumerate(zip(names, CASES, strict=True)):
        given = {} if p_positive is None else {"best_p_positive": p_positive}
        confidence = {} if p_positive is None else {"confidence": p_positive}
        assert content["labels"][name] == {
            "label": word,
            "attributes": {
                **{"key": split.image_keys[row], "class_label": f"class {row}", "candidates": candidates},
                **{"judged_matches": judged, "neighbours": [split.image_keys[at] for at in near[row]["ids"]], **given},
            },
            **confidence,
        }
        assert (tmp_path / f"out/val/data/{name}.jpg").read_bytes() == split.image_bytes(row)
    assert files == [*(tmp_path / f"out/val/data/{name}.jpg" for name in names), tmp_path / "out/val/labels.json"]
