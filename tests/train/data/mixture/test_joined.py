"""Joined rows against the rows of each split, read one by one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.train.data.gather import TeacherRows
from cusa.train.data.mixture.joined import JoinedPairs, JoinedTable
from cusa.train.data.pairs import Pairs
from tests import worlds
from tests.train.conftest import make_world


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Split]:
    """Two worlds of the same pictures, and one of others."""
    folder = tmp_path_factory.mktemp("two")
    first = make_world(folder / "first")
    shutil.copytree(first, folder / "copy")
    return [Split(first, "train"), Split(folder / "copy", "train")]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Split:
    work = worlds.make_work(tmp_path_factory.mktemp("other"), images=6, captions=2, splits=("train",))
    return Split(work, "train")


def test_rows_are_those_of_the_sets_one_after_another(two: list[Split], other: Split) -> None:
    splits = [two[0], other]
    pairs = JoinedPairs([Pairs(split) for split in splits], ["a", "b"])
    keys = [f"{name}:{key}" for name, split in zip("ab", splits, strict=True) for key in split.caption_keys]
    texts = [text for split in splits for text in split.texts]
    owner = np.concatenate([two[0].caption_owner, other.caption_owner + two[0].num_images])
    rows = np.array([0, 40, 3, len(texts) - 1, 35, 36])
    assert [pairs.caption_keys[row] for row in rows] == [keys[row] for row in rows]
    assert [pairs.texts[row] for row in rows] == [texts[row] for row in rows]
    np.testing.assert_array_equal(pairs.owner[rows], owner[rows])
    np.testing.assert_array_equal(pairs.owner.whole(), owner)
    assert int(pairs.owner.row(40)) == owner[40]
    image = int(owner[-1])
    data = pairs.image_bytes(image)
    assert data == other.image_bytes(image - two[0].num_images)
    pairs.check(image, data)
    assert (Path() / pairs.shard(image)).is_file()
    assert pairs.split.num_images == two[0].num_images + other.num_images
    assert pairs.split.num_captions == len(texts)


def test_the_same_bytes_in_two_sets_are_one_image_and_it_is_said(two: list[Split]) -> None:
    pairs = JoinedPairs([Pairs(split) for split in two], ["a", "b"])
    number = two[0].num_images
    first = {sha: row for row, sha in reversed(list(enumerate(two[0].samples["sha256"].to_pylist())))}
    expected = [first[sha] for split in two for sha in split.samples["sha256"].to_pylist()]
    np.testing.assert_array_equal(pairs.image_ids(np.arange(2 * number)), expected)
    (note,) = pairs.notes
    assert note.startswith(f"{number} of {number} images of b stand in a as well")


def test_tables_join_and_differing_widths_are_read_apart_only(two: list[Split], tmp_path: Path) -> None:
    colours, words = (TeacherRows(two[0], name, fallback=tmp_path) for name in ("colours", "words"))
    again = TeacherRows(two[1], "colours", fallback=tmp_path / "2")
    table = JoinedTable([colours, again], "image", (0.5, 0.5))
    rows = np.array([13, 0, 23, 11, 12])
    whole = np.concatenate([colours[np.arange(12)], again[np.arange(12)]])
    np.testing.assert_array_equal(table[rows], whole[rows])
    on_device = table.on(torch.device("cpu"), budget=table.nbytes)
    assert on_device is not None
    np.testing.assert_array_equal(on_device.float().numpy(), whole)
    assert table.on(torch.device("cpu"), budget=table.nbytes - 1) is None
    mixed = JoinedTable([colours, again], "image", (0.5, 0.5))
    whole_rows = colours._rows.whole
    again._rows.whole = lambda: whole_rows().astype(np.float64)  # type: ignore[method-assign]
    assert mixed.on(torch.device("cpu"), budget=mixed.nbytes) is None, "of two types"
    apart = JoinedTable([colours, words], "image", (0.5, 0.5))
    assert apart.on(torch.device("cpu"), budget=apart.nbytes) is None, "of two widths"
    assert colours.width != words.width
    np.testing.assert_array_equal(apart[np.array([14, 12])], words[np.array([2, 0])])
    with pytest.raises(ConfigError, match="and this needs rows that compare over sets"):
        apart[np.array([0, 12])]
