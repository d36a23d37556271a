"""Search by words and by picture: what a plain product over all rows finds, by the very teacher of the tables."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.models.preprocess import decode_rgb
from cusa.pipeline.index import search
from tests.pipeline.audited import load, teach
from tests.worlds import Colours, Words, make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("search"), images=8, splits=("train", "test"))
    for split in ("train", "test"):
        teach(work, split=split, image="colours", text="words")
    return work


def _splits(work: Path) -> list[Split]:
    return [Split(work, name) for name in ("train", "test")]


def test_run__words_find_what_all_products_find(work: Path) -> None:
    hits = search.run(_splits(work), words="A GREEN wall!", number=4, load=load)
    query = Words().encode(["a green wall"])[0]
    best = []
    for split in _splits(work):
        rows = tables.read_teacher(split, "words").embeddings.astype(float)
        best += [(float(row @ query), split.name, key) for row, key in zip(rows, split.caption_keys, strict=True)]
    top = max(best)[0]
    assert [hit.similarity for hit in hits] == pytest.approx([top] * 4, abs=1e-3)
    assert all("green" in hit.caption for hit in hits)
    assert len({(hit.split, hit.image_key) for hit in hits}) == 4, "an image is shown once"
    assert {hit.split for hit in hits} == {"train", "test"}


def test_run__a_picture_finds_itself_first(work: Path, tmp_path: Path) -> None:
    split = Split(work, "train")
    path = tmp_path / "asked.jpg"
    path.write_bytes(split.image_bytes(5))
    hits = search.run([split], image=path, number=3, load=load)
    assert hits[0].image_key == split.image_keys[5]
    assert hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert hits[0].caption == split.texts[25]
    rows = tables.read_teacher(split, "colours").embeddings.astype(float)
    query = Colours().encode([decode_rgb(path.read_bytes())])[0]
    order = np.argsort(-(rows @ query))[:3]
    assert [hit.image_key for hit in hits] == [split.image_keys[row] for row in order]


def test_write_html__self_contained_and_escaped(work: Path, tmp_path: Path) -> None:
    hits = search.run(_splits(work), words="a red wall", number=3, load=load)
    search.write_html(tmp_path / "hits.html", _splits(work), hits, "<script>alert(1)</script>")
    text = (tmp_path / "hits.html").read_text()
    assert "<script" not in text
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', text)) == 3
    assert "http" not in re.sub(r"data:[^\"]+|http-equiv", "", text)
    assert len(search.answer(hits).rows) == 3


def test_run__what_cannot_be_searched_is_explained(work: Path, tmp_path: Path) -> None:
    splits = _splits(work)
    with pytest.raises(ConfigError, match="for words or for a picture"):
        search.run(splits, load=load)
    with pytest.raises(ConfigError, match="for words or for a picture"):
        search.run(splits, words="a", image=tmp_path, load=load)
    with pytest.raises(DataError, match=r"nothing\.jpg does not exist"):
        search.run(splits, image=tmp_path / "nothing.jpg", load=load)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match="does not decode"):
        search.run(splits, image=tmp_path / "text.jpg", load=load)

    class Later(Words):
        def provenance(self) -> dict[str, str]:
            return {**super().provenance(), "revision": "2"}

    def later(name: str, modality: str) -> Any:
        return Later()

    with pytest.raises(StaleError, match=r"is not the one that made the tables: its revision is '2', theirs '1'"):
        search.run(splits, words="a red wall", load=later)
    index = work / "test/index/words.faiss"
    whole = index.read_bytes()
    index.write_bytes(whole[:20])
    with pytest.raises(DataError, match=r"words\.faiss is not the index that was written"):
        search.run(splits, words="a red wall", load=load)
    index.unlink()
    with pytest.raises(DataError, match=r"words\.faiss does not exist\. Run `cusa index"):
        search.run(splits, words="a red wall", load=load)
    index.write_bytes(whole)


class _Short(Words):
    def encode(self, items: Any) -> np.ndarray:
        return np.ones((len(items), 3), np.float32)


@pytest.mark.parametrize("revision", ["local folder", "imported"])
def test_run__a_teacher_whose_name_does_not_load_it_is_asked_for_at_once(
    work: Path, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tables.provenance(Split(work, "train"), "words")
    changed = {"revision": revision, "weights_sha256": "", "preprocessing": ""}
    monkeypatch.setattr(tables, "provenance", lambda split, teacher: {**known, **changed})
    with pytest.raises(ConfigError, match="'words' (was read from a folder|is features).*--teacher FOLDER"):
        search.run(_splits(work), words="a wall", load=load)
    if revision == "imported":  # nobody knows what made them, so whatever is named is believed
        assert search.run(_splits(work), words="a wall", teacher="words", load=load)
        with pytest.raises(DataError, match=r"words gives 3 numbers, the index of train has \d+"):
            search.run(_splits(work), words="a wall", teacher="words", load=lambda *_: _Short())


@pytest.mark.parametrize("key", ["revision", "weights_sha256", "preprocessing"])
def test_run__whatever_makes_a_teacher_another_one_is_refused(work: Path, key: str) -> None:
    class Other(Words):
        def provenance(self) -> dict[str, str]:
            return {**super().provenance(), key: "another"}

    if key == "weights_sha256":  # of a class it is the module's own file that counts
        known = {**Words().provenance(), key: "another"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "provenance", lambda split, teacher: known)
            with pytest.raises(StaleError, match=f"its {key} is .*theirs 'another'"):
                search.run(_splits(work), words="a wall", load=load)
        return
    with pytest.raises(StaleError, match=f"its {key} is 'another', theirs"):
        search.run(_splits(work), words="a wall", load=lambda *_: Other())


def test_run__splits_with_different_teachers_of_one_name_are_searched_one_at_a_time(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tables.provenance(Split(work, "train"), "words")
    monkeypatch.setattr(
        tables, "provenance", lambda split, teacher: {**known, "revision": "1" if split.name == "train" else "2"}
    )
    with pytest.raises(StaleError, match="test and train have different teachers 'words'. Search one --split"):
        search.run(_splits(work), words="a wall", load=load)
    assert search.run(_splits(work)[:1], words="a wall", load=load)


@pytest.mark.parametrize("transform", ["clean", "none"])
def test_run__words_are_read_as_the_captions_were(work: Path, monkeypatch: pytest.MonkeyPatch, transform: str) -> None:
    known = tables.provenance(Split(work, "train"), "words")
    monkeypatch.setattr(tables, "provenance", lambda split, teacher: {**known, "transform": transform})
    heard: list[str] = []

    class Listens(Words):
        def encode(self, items: Any) -> np.ndarray:
            heard.extend(items)
            return super().encode(items)

    search.run(_splits(work)[:1], words="A GREEN wall!", load=lambda *_: Listens())
    assert heard == ["a green wall" if transform == "clean" else "A GREEN wall!"]


def test_answer__is_a_row_a_hit_in_order(work: Path) -> None:
    hits = search.run(_splits(work), words="a red wall", number=3, load=load)
    told = search.answer(hits)
    assert [row[0] for row in told.rows] == [1, 2, 3]
    for row, hit in zip(told.rows, hits, strict=True):
        assert {hit.split, hit.image_key, hit.caption} <= set(row)
    assert len(search.run(_splits(work), words="a red wall", load=load)) == 10, "unless told otherwise"
