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


class _Found:
    """An index that finds what it is told, as many as it is asked for."""

    def __init__(self, rows: list[int], similarities: list[float], *, total: int = 40) -> None:
        self.d, self.ntotal = Words.width, total
        self._rows, self._similarities = np.array([rows], np.int64), np.array([similarities], np.float32)
        self.asked: list[tuple[np.ndarray, int]] = []

    def search(self, query: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((query, places))
        return self._similarities[:, :places], self._rows[:, :places]


def _with(monkeypatch: pytest.MonkeyPatch, *found: _Found) -> None:
    indices = iter(found)
    monkeypatch.setattr(search, "read_index", lambda *args, **options: next(indices))


def test_run__the_best_caption_of_each_image_and_ties_by_key(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five captions an image: rows 0 to 4 are the first one's. Where nothing was found stands -1."""
    split, none = Split(work, "train"), float("-inf")
    _with(monkeypatch, _Found([7, 3, 21, 20, 1, 12, -1], [0.9, 0.9, 0.9, 0.9, 0.8, 0.7, none]))
    hits = search.run([split], words="a red wall", number=2, load=load)
    assert [(hit.image_key, hit.caption_key, hit.caption) for hit in hits] == [
        (split.image_keys[row // 5], split.caption_keys[row], split.texts[row]) for row in (3, 7)
    ]
    _with(monkeypatch, _Found([7, 3, 21, 20, 1, 12, -1], [0.9, 0.9, 0.9, 0.9, 0.8, 0.7, none]))
    hits = search.run([split], words="a red wall", number=9, load=load)
    assert [(hit.caption_key, round(hit.similarity, 3)) for hit in hits] == [
        (split.caption_keys[row], value) for row, value in ((3, 0.9), (7, 0.9), (20, 0.9), (12, 0.7))
    ]


def test_run__hits_of_all_splits_are_one_ranking(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _splits(work)
    _with(monkeypatch, _Found([0, 10], [0.5, 0.4]), _Found([5, 30], [0.6, 0.1]))
    hits = search.run([train, test], words="a red wall", number=3, load=load)
    assert [(hit.split, hit.caption_key) for hit in hits] == [
        ("test", test.caption_keys[5]),
        ("train", train.caption_keys[0]),
        ("train", train.caption_keys[10]),
    ]


@pytest.mark.parametrize(("number", "total", "places"), [(3, 40, 24), (10, 40, 40)])
def test_run__several_captions_of_an_image_may_be_near(
    work: Path, monkeypatch: pytest.MonkeyPatch, number: int, total: int, places: int
) -> None:
    found = _Found([0], [1.0], total=total)
    _with(monkeypatch, found)
    search.run([Split(work, "train")], words="a red wall", number=number, load=load)
    ((query, asked),) = found.asked
    assert asked == places
    np.testing.assert_allclose(np.linalg.norm(query), 1, atol=1e-6)


def test_run__what_a_teacher_gives_is_brought_to_unit_length_or_refused(work: Path) -> None:
    class Scaled(Words):
        by = 7.0

        def encode(self, items: Any) -> np.ndarray:
            return super().encode(items) * self.by

    expected = search.run(_splits(work), words="a red wall", number=4, load=load)
    got = search.run(_splits(work), words="a red wall", number=4, load=lambda *_: Scaled())
    assert [hit.similarity for hit in got] == pytest.approx([hit.similarity for hit in expected], abs=1e-6)
    for by in (0.0, float("nan")):
        Scaled.by = by
        with pytest.raises(DataError, match="no usable vector for what was asked"):
            search.run(_splits(work), words="a red wall", load=lambda *_: Scaled())


def test_run__the_same_weights_from_a_folder_or_a_hub_are_the_same_teacher(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**tables.provenance(Split(work, "train"), "words"), "revision": "of a hub", "weights_sha256": "1" * 64}
    monkeypatch.setattr(tables, "provenance", lambda split, teacher: known)
    monkeypatch.setattr(search, "weights_digest", lambda name: "1" * 64)
    assert search.run(_splits(work), words="a wall", load=load)
    monkeypatch.setattr(search, "weights_digest", lambda name: "2" * 64)
    with pytest.raises(StaleError, match="its (revision|weights_sha256) is"):
        search.run(_splits(work), words="a wall", load=load)


@pytest.mark.parametrize("words", ["", "  \n"])
def test_run__spaces_are_no_words(work: Path, words: str) -> None:
    with pytest.raises(ConfigError, match="for words or for a picture"):
        search.run(_splits(work), words=words, load=load)


def test_run__indices_of_another_split_or_table_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def remember(path: Path, **options: Any) -> _Found:
        asked.append({"path": path, **options})
        return _Found([0], [1.0])

    monkeypatch.setattr(search, "read_index", remember)
    splits = _splits(work)
    search.run(splits, words="a wall", load=load)
    for split, options in zip(splits, asked, strict=True):
        assert options["path"] == split.folder / "index/words.faiss"
        assert options["table"] == split.folder / "index/neighbours-words.parquet"
        assert options["rows"] == split.num_captions
        assert options["made_from"] == {
            "split": split.digest,
            "teacher_digest": tables.teacher_digest(split, "words"),
        }


def test_write_html__a_picture_that_cannot_be_shown_says_why(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = _splits(work)
    hits = search.run(splits, words="a red wall", number=4, load=load)
    read = Split.image_bytes
    shown: list[tuple[str, int]] = []

    def broken(self: Split, row: int) -> bytes:
        shown.append((self.name, row))
        if len(shown) == 1:
            return b"no picture"
        if len(shown) == 2:
            raise DataError("The tar is gone.")
        return read(self, row)

    monkeypatch.setattr(Split, "image_bytes", broken)
    search.write_html(tmp_path / "hits.html", splits, hits, "red")
    opened = {split.name: split for split in splits}
    assert shown == [(hit.split, opened[hit.split].image_row[hit.image_key]) for hit in hits]
    page = (tmp_path / "hits.html").read_text()
    assert "This picture does not decode." in page
    assert "The tar is gone." in page
    assert page.count("data:image/jpeg") == 2
