"""ECCV Caption's folder: each official file under its name, in both directions; what is missing is named."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import eccv_truth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "coco_test_ids.npy", np.array([30, 10, 20], dtype=np.int32))
    for number, file in enumerate(("original", "cxc", "eccv")):
        for side, way in enumerate(("image_to_caption", "caption_to_image")):
            content = {f"{100 * number + side}": [9, 8, 9, number]}
            (tmp_path / f"{file}_{way}.json").write_text(json.dumps(content))
    return tmp_path


def test_read__each_file_under_its_name(folder: Path) -> None:
    truths = eccv_truth.read(folder)
    assert truths.caption_ids.tolist() == [30, 10, 20]
    assert truths.caption_ids.dtype == np.int64
    names = {"coco": 0, "cxc": 1, "eccv": 2}
    assert truths.image_to_text == {name: {100 * n: sorted({8, 9, n})} for name, n in names.items()}
    assert truths.text_to_image == {name: {100 * n + 1: sorted({8, 9, n})} for name, n in names.items()}
    assert not eccv_truth.has_plausible(folder)


def test_read__plausible_matches_where_they_are_there(folder: Path) -> None:
    (folder / "pm_image_to_caption.json").write_text('{"5": [6]}')
    (folder / "pm_caption_to_image.json").write_text('{"6": [5, 7]}')
    assert eccv_truth.has_plausible(folder)
    truths = eccv_truth.read(folder)
    assert list(truths.image_to_text) == list(truths.text_to_image) == ["coco", "cxc", "eccv", "pm"]
    assert (truths.image_to_text["pm"], truths.text_to_image["pm"]) == ({5: [6]}, {6: [5, 7]})


def test_is_ground_truth__needs_the_order_and_the_matches(folder: Path) -> None:
    assert eccv_truth.is_ground_truth(folder)
    for name in ("coco_test_ids.npy", "eccv_image_to_caption.json"):
        moved = (folder / name).rename(folder / "away")
        assert not eccv_truth.is_ground_truth(folder)
        moved.rename(folder / name)
    (folder / "eccv_caption_to_image.json").unlink()
    with pytest.raises(DataError, match=r"eccv_caption_to_image\.json does not exist"):
        eccv_truth.read(folder)


@pytest.mark.parametrize("ids", [np.array([1.0, 2.0]), np.array([[1], [2]]), np.array(["1"])])
def test_read__an_order_that_is_none_is_named(folder: Path, ids: Any) -> None:
    np.save(folder / "coco_test_ids.npy", ids)
    with pytest.raises(DataError, match=r"coco_test_ids\.npy cannot be read: it holds .*not one row of integers"):
        eccv_truth.read(folder)


def test_official_folder__of_the_installed_package_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert eccv_truth.official_folder() is None or eccv_truth.is_ground_truth(eccv_truth.official_folder())  # type: ignore[arg-type]
    (tmp_path / "eccv_caption").mkdir()
    (tmp_path / "eccv_caption/__init__.py").write_text("raise RuntimeError('only its data are read')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "eccv_caption", raising=False)  # another test may have imported the real one
    assert eccv_truth.official_folder() == tmp_path / "eccv_caption/data"
