"""Held-out splits: every image once, by its key alone, near the share that was asked for."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import ConfigError, DataError
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.readers import Reading, hold_out

DROP = Drop("train", "", "x.jpg", "image", "bad-row", "nothing")


def _reading(numbers: list[int], *others: ImageRecord) -> Reading:
    rows = [
        ImageRecord(f"mine/{number}", "train", None, str(number), (CaptionRecord("", "words"),)) for number in numbers
    ]
    return Reading("mine", [*rows, *others, DROP], {})


@given(numbers=st.lists(st.integers(0, 10_000), unique=True), more=st.lists(st.integers(10_001, 20_000), unique=True))
def test_hold_out__an_image_s_split_depends_on_its_key_alone(numbers: list[int], more: list[int]) -> None:
    shares = {"val": 0.2, "test": 0.3}
    first = {image.key: image.split for image in hold_out(_reading(numbers), shares).images}
    later = {image.key: image.split for image in hold_out(_reading([*more, *reversed(numbers)]), shares).images}
    assert len(first) == len(numbers)
    assert first.items() <= later.items()


def test_hold_out__the_shares_and_everything_else_as_it_was() -> None:
    reading = _reading(list(range(4000)), ImageRecord("mine/own", "extra", None, "own", ()))
    held = hold_out(reading, {"val": 0.1, "test": 0.25})
    counts = {split: sum(image.split == split for image in held.images) for split in ("train", "val", "test", "extra")}
    assert counts["val"] == pytest.approx(400, abs=60)
    assert counts["test"] == pytest.approx(1000, abs=90)
    assert counts["extra"] == 1
    assert [image._replace(split="") for image in held.images] == [i._replace(split="") for i in reading.images]
    assert held.drops == [DROP]
    assert "val 0.1, test 0.25" in held.notes[-1]


@pytest.mark.parametrize(
    "shares", [{"val": 1.0}, {"val": 0.0}, {"train": 0.1}, {"val": 0.5, "test": 0.5}, {"a/b": 0.1}]
)
def test_hold_out__impossible_shares(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--hold-out"):
        hold_out(_reading([1, 2]), shares)


def test_hold_out__a_data_set_with_splits_or_truth_keeps_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a split 'val' already"):
        hold_out(_reading([1], ImageRecord("mine/v", "val", None, "v", ())), {"val": 0.1})
    with pytest.raises(DataError, match="truth of its own splits"):
        hold_out(replace(_reading([1]), truth={"train": tmp_path / "truth.parquet"}), {"val": 0.1})


def test_hold_out__a_key_is_drawn_by_its_digest() -> None:
    """The first eight bytes of the key's SHA-256 as a fraction; below the first share: the first split..."""
    reading = _reading(list(range(300)))
    for image in hold_out(reading, {"test": 0.2, "val": 0.3}).images:
        drawn = int(hashlib.sha256(image.key.encode()).hexdigest()[:16], 16) / 16**16
        assert image.split == ("test" if drawn < 0.2 else "val" if drawn < 0.5 else "train")
    assert hold_out(reading, {"val": 0.1}).notes == ("Held out of train by key: val 0.1.",)


def test_hold_out__a_row_that_was_refused_takes_no_name() -> None:
    refused = replace(_reading([1, 2]), rows=[*_reading([1, 2]).rows, replace(DROP, split="val")])
    assert len(hold_out(refused, {"val": 0.5}).images) == 2


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_hold_out__a_share_outside_of_0_to_1(share: float) -> None:
    with pytest.raises(ConfigError, match=r"--hold-out val=.* is no share to hold out of train"):
        hold_out(_reading([1]), {"val": share})
