"""The encoders of an audit: what its digests cover, and which other splits may teach the map from images to texts."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract, index, readers, shard
from cusa.pipeline.config import ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, digests, open_neighbourhoods, splits_with, stamps
from tests.pipeline.audited import teach
from tests.worlds import Words, make_work, write_karpathy

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


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_open_neighbourhoods__what_lies_on_disk_reaches_the_candidates(tmp_path: Path) -> None:
    """Every column of every pair, from the tables, the pictures' bytes and the captions' words."""
    source = write_karpathy(tmp_path / "raw", images=6, splits=("train",), captions=2)
    content = store.read_json(source)
    content["images"][3]["sentences"][1]["raw"] = "The same, words"
    content["images"][4]["sentences"][0]["raw"] = "the SAME words."
    store.write_json(source, content)
    shutil.copy(tmp_path / "raw/train/picture_0001.jpg", tmp_path / "raw/train/picture_0005.jpg")
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    work = teach(tmp_path / "work", neighbours=3, image="colours", text="words")
    split = Split(work, "train")
    opened = open_neighbourhoods(split, choose(split, Encoders()), depth=2)
    assert opened.encoders == BOTH
    got = opened.finder.find(np.arange(6), everything=True)
    pairs = list(zip(got.image.tolist(), got.caption.tolist(), strict=True))
    assert pairs == [(i, c) for i in range(6) for c in range(12) if c // 2 != i]
    images = _unit(tables.read_teacher(split, "colours").embeddings)
    texts = _unit(tables.read_teacher(split, "words").embeddings)
    by_image = [images[i] @ images[c // 2] for i, c in pairs]
    by_text = [max(texts[2 * i] @ texts[c], texts[2 * i + 1] @ texts[c]) for i, c in pairs]
    np.testing.assert_allclose(got.image_similarity, by_image, atol=1e-3)
    np.testing.assert_allclose(got.text_similarity, by_text, atol=1e-3)
    share = opened.finder.weights
    assert sum(share) == pytest.approx(1)
    scores = np.clip(share[0] * np.array(by_image) + share[1] * np.array(by_text), 0, 1)
    np.testing.assert_allclose(got.score, scores, atol=1e-3)
    same = {pair for pair, mark in zip(pairs, got.duplicate_image, strict=True) if mark}
    assert same == {(1, 10), (1, 11), (5, 2), (5, 3)}
    assert {pair for pair, mark in zip(pairs, got.duplicate_caption, strict=True) if mark} == {(3, 8), (4, 7)}
    for name, near, rank in (("colours", opened.images, got.image_rank), ("words", opened.texts, got.text_rank)):
        assert near is not None
        assert near.near.ids.shape[1] == 2, name
        assert 0 < rank.max() <= 2
    features = opened.features(split)
    assert opened.features(split) is features, "the map is learned once"
    assert opened.features(split, ["text_two"]).names == ("text_two",)


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        (Encoders(), BOTH),
        (Encoders(image="none"), Encoders(text="words")),
        (Encoders(text="none"), Encoders(image="colours")),
        (Encoders("colours", "words", "a student"), Encoders("colours", "words", "a student")),
    ],
)
def test_choose__names_every_encoder_that_is_used(work: Path, named: Encoders, chosen: Encoders) -> None:
    split = Split(work, "train")
    assert choose(split, named) == chosen
    opened = open_neighbourhoods(split, Encoders(chosen.image, chosen.text), depth=2)
    assert (opened.images is not None, opened.texts is not None) == (bool(chosen.image), bool(chosen.text))
    assert [other.name for other in opened.others] == (["val"] if chosen.image and chosen.text else [])
    assert set(stamps(split, Encoders(chosen.image, chosen.text))) == set(
        Encoders(chosen.image, chosen.text).teachers()
    )


def test_choose__no_teacher_at_all_is_refused(work: Path) -> None:
    with pytest.raises(DataError, match=r"has no teacher to audit with\. Run `cusa extract-teachers"):
        choose(Split(work, "train"), Encoders("none", "none"))


def test_splits_with__a_teacher_that_the_other_split_lacks(work: Path) -> None:
    shutil.rmtree(work / "train/teachers/words")
    assert splits_with(Split(work, "val"), BOTH) == []


def test_digests__a_table_that_was_not_indexed_has_none(work: Path) -> None:
    (work / "train/index/neighbours-words.parquet").unlink()
    found = digests(Split(work, "train"), BOTH)
    assert found["neighbours words"] == ""
    assert set(found) == {"teacher colours", "teacher words", "neighbours colours", "neighbours words", "pairs of val"}
    assert all(len(value) == 64 for name, value in found.items() if name != "neighbours words")
