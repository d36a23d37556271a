"""Ids in ECCV Caption's layout: one number however it is written, or a key as it is."""

import json
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import coco_matches


def test_read__a_number_is_the_same_with_leading_zeros_and_a_key_stays(tmp_path: Path) -> None:
    path = tmp_path / "a_image_to_caption.json"
    path.write_text(json.dumps({"000000391895": [7, "007", "coco/1#0"], "coco/0012": ["0"]}))
    assert coco_matches.read_named(path) == {"391895": ["7", "7", "coco/1#0"], "coco/0012": ["0"]}
    path.write_text(json.dumps({"000000391895": [7, "007"]}))
    assert coco_matches.read(path) == {391895: [7, 7]}


@pytest.mark.parametrize("content", [{"12": ["word"]}, {"12": [1.5]}, {"12": 3}, [1]])
def test_read_named__what_is_no_id_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a_image_to_caption.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not in ECCV Caption's layout"):
        coco_matches.read_named(path)


def test_read__numbers_as_the_file_has_them_or_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / coco_matches.IMAGE_TO_CAPTION.format("mine")
    assert path.name == "mine_image_to_caption.json"
    assert coco_matches.CAPTION_TO_IMAGE.format("mine") == "mine_caption_to_image.json"
    path.write_text(json.dumps({"7": [3, "0002", 3], "6": []}))
    assert coco_matches.read(path) == {7: [3, 2, 3], 6: []}
    for content in ({"word": [1]}, {"1": ["word"]}, {"1": 5}, {"1": [None]}, [1]):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"mine_image_to_caption\.json is not in ECCV Caption's layout"):
            coco_matches.read(path)
