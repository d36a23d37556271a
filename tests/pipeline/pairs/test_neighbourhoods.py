"""The encoders of an audit: what its digests cover, and which other splits may teach the map from images to texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.manifests.samples import Split
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders, digests, splits_with
from tests.pipeline.audited import teach
from tests.worlds import Words, make_work

BOTH = Encoders(image="colours", text="words")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = make_work(tmp_path, images=4, splits=("train", "val"), captions=2)
    for split in ("train", "val"):
        teach(work, split=split, neighbours=2, image="colours", text="words")
    return work


class Louder(Words):
    """The same teacher by its provenance, other numbers."""

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        rows = super().encode(items) + 0.1
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


class Later(Words):
    """The same name, another revision."""

    def provenance(self) -> dict[str, str]:
        return {**super().provenance(), "revision": "2"}


def _teach_again(work: Path, split: str, teacher: type[Words]) -> None:
    extract.run(
        ExtractConfig(),
        split=Split(work, split),
        teacher="words",
        modality="text",
        load=lambda name, modality: teacher(),
        force=True,
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_digests__see_every_table_that_is_read(work: Path, split: str) -> None:
    """The other splits' pairs teach the map, so their tables count as well."""
    before = digests(Split(work, "train"), BOTH)
    assert before == digests(Split(work, "train"), BOTH)
    assert "pairs of val" in before
    _teach_again(work, split, Louder)
    after = digests(Split(work, "train"), BOTH)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"pairs of val" if split == "val" else "teacher words"}


def test_digests__see_a_neighbour_table(work: Path) -> None:
    before = digests(Split(work, "train"), BOTH)
    index.run(IndexConfig(neighbours=1), split=Split(work, "train"), teacher="colours")
    after = digests(Split(work, "train"), BOTH)
    assert {name for name in before if before[name] != after[name]} == {"neighbours colours"}


def test_splits_with__only_the_very_same_teachers_count(work: Path) -> None:
    assert [other.name for other in splits_with(Split(work, "train"), BOTH)] == ["val"]
    assert splits_with(Split(work, "train"), Encoders(text="words")) == [], "no map without images"
    _teach_again(work, "val", Later)
    assert splits_with(Split(work, "train"), BOTH) == [], "another revision under the same name"
