"""Crisscrossed Captions' files: every row, whichever end stands first, and the line that is none."""

from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import cxc_ratings

IMAGES = "image1,image2,agg_score,sampling_method\nCOCO_val2014_000000000007.jpg,COCO_val2014_000000000009.jpg,0,x\n"


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_read__texts_and_pictures_by_their_numbers(tmp_path: Path) -> None:
    found = cxc_ratings.read(
        _write(tmp_path, "sis_test.csv", IMAGES + "COCO_val2014_000000000009.jpg,000000000012,5,y\n")
    )
    assert (found.first, found.second, found.score.tolist()) == ([7, 9], [9, 12], [0.0, 5.0])
    text = "caption1,caption2,agg_score,m\nCOCO_val2014:sentid:15575,COCO_val2014:sentid:3,2.25,x\n"
    found = cxc_ratings.read(_write(tmp_path, "sts_test.csv", text))
    assert (found.first, found.second, found.score.tolist()) == ([15575], [3], [2.25])


@pytest.mark.parametrize("captions_first", [True, False])
def test_read__an_image_with_a_caption_has_the_image_first(tmp_path: Path, captions_first: bool) -> None:
    ends = [("COCO_val2014:sentid:5", "COCO_val2014_000000000007.jpg"), ("COCO_val2014:sentid:6", "8")]
    lines = ["caption,image" if captions_first else "image,caption"]
    lines += [",".join(pair if captions_first else pair[::-1]) for pair in ends]
    found = cxc_ratings.read(_write(tmp_path, "sits_test.csv", "\n".join(f"{line},1.5,x" for line in lines)))
    assert (found.first, found.second, found.score.tolist()) == ([7, 8], [5, 6], [1.5, 1.5])


@pytest.mark.parametrize(
    "line",
    ["7,9", "7,9,much,x", "7,9,-0.1,x", "7,9,5.1,x", "7,9,nan,x", "dog.jpg,9,1,x", "7,COCO_val2014:sentid:,1,x", ""],
)
def test_read__the_line_that_is_no_rating_is_named(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path, "sis_val.csv", f"{IMAGES}{line}\n")
    with pytest.raises(DataError, match=r"sis_val\.csv:3 is no rating \(.*Restore Crisscrossed Captions' file"):
        cxc_ratings.read(path)


def test_read__what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "sis_val.csv", IMAGES)
    path.write_bytes(path.read_bytes() + b"\xff")
    for broken in (path, tmp_path / "none.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            cxc_ratings.read(broken)


def test_files__of_a_split_by_what_they_rate(tmp_path: Path) -> None:
    assert not cxc_ratings.is_layout(tmp_path)
    assert cxc_ratings.files(tmp_path, "test") == {}
    for name in ("sis_test.csv", "sits_test.csv", "sts_val.csv", "sts_test.txt"):
        _write(tmp_path, name, IMAGES)
    assert cxc_ratings.is_layout(tmp_path)
    assert cxc_ratings.files(tmp_path, "test") == {
        "image-to-image": tmp_path / "sis_test.csv",
        "image-to-text": tmp_path / "sits_test.csv",
    }
    assert cxc_ratings.files(tmp_path, "val") == {"text-to-text": tmp_path / "sts_val.csv"}
    assert cxc_ratings.MATCH == 3
