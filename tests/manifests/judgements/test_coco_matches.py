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
