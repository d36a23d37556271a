"""A teacher's digest speaks of its rows, not of what its files say of themselves."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cusa.errors import CusaError, DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig, ShardConfig
from tests.worlds import Colours, Words, make_work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("world"), images=8, splits=("train",))
    split = Split(work, "train")
    extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
    return work


@pytest.fixture
def split(made: Path, tmp_path: Path) -> Split:
    shutil.copytree(made, tmp_path / "work", copy_function=shutil.copy2)
    return Split(tmp_path / "work", "train")


def _part(split: Split) -> Path:
    (part,) = (split.folder / "teachers/colours").glob("[0-9]*.parquet")
    return part


def _turn_rows(part: Path) -> None:
    """Put every row in another's place, under the same keys and metadata."""
    table = store.read_table(part)
    rows = np.roll(tables.embedding_matrix(table), 1, axis=0)
    flat = pa.array(rows.reshape(-1), table.schema.field("embedding").type.value_type)
    column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    store.write_table(part, table.set_column(1, table.schema.field("embedding"), column))


def test_teacher_digest__other_rows_under_the_same_metadata(split: Split) -> None:
    part = _part(split)
    before, metadata = tables.teacher_digest(split, "colours"), tables.read_part_metadata(part)
    _turn_rows(part)
    assert tables.read_part_metadata(part) == metadata
    assert tables.teacher_digest(split, "colours") != before


def test_teacher_digest__every_kind_of_dependant_sees_it(split: Split) -> None:
    config = IndexConfig(neighbours=3)
    assert index.run(config, split=split, teacher="colours").fresh
    assert not index.run(config, split=split, teacher="colours").fresh
    read_neighbours(split, "colours", depth=3)
    _turn_rows(_part(split))
    with pytest.raises(StaleError, match="made from another table of teacher 'colours'"):
        read_neighbours(split, "colours", depth=3)
    (split.folder / "teachers/colours/ledger.json").unlink()  # else it says that these rows were not extracted
    again = index.run(config, split=split, teacher="colours")
    assert (again.fresh, again.why) == (True, "teacher changed")


def test_teacher_digest__is_that_of_the_bytes_however_it_is_learnt(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = _part(split)
    expected = store.digest([(part.name, store.sha256_file(part))])
    read: list[Path] = []
    sha256_file = store.sha256_file
    monkeypatch.setattr(store, "sha256_file", lambda path: (read.append(path), sha256_file(path))[1])
    assert tables.teacher_digest(split, "colours") == expected
    assert read == [], "size and time are those of the ledger"
    os.utime(part, ns=(1, 1))
    assert tables.teacher_digest(split, "colours") == expected
    assert tables.teacher_digest(split, "colours") == expected
    assert read == [part], "touched: read, once a process"
    (part.parent / "ledger.json").unlink()
    assert tables.teacher_digest(split, "colours") == expected


def test_teacher_digest__a_flipped_byte_anywhere(split: Split) -> None:
    part, before = _part(split), tables.teacher_digest(split, "colours")
    data = part.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        os.utime(part, ns=(place + 2, place + 2))
        assert tables.teacher_digest(split, "colours") != before, place


def test_read_parts__rows_that_the_extraction_did_not_write(split: Split) -> None:
    part = _part(split)
    whole = part.read_bytes()
    _turn_rows(part)
    with pytest.raises(DataError, match=r"00000\.parquet was changed after `cusa extract-teachers` wrote it .*--force"):
        list(tables.read_parts(split, "colours"))
    part.write_bytes(whole)  # restored, at another time
    assert len(list(tables.read_parts(split, "colours"))) == 1
    _turn_rows(part)
    (part.parent / "ledger.json").unlink()  # killed before its end: nothing is known of the part's bytes
    assert len(list(tables.read_parts(split, "colours"))) == 1


def test_read_parts__rows_in_another_order_are_not_the_split_s(split: Split) -> None:
    """The same keys and the same rows, written by somebody who left no ledger."""
    part = _part(split)
    table = store.read_table(part)
    (part.parent / "ledger.json").unlink()
    store.write_table(part, table.take([1, 0, *range(2, table.num_rows)]))
    with pytest.raises(StaleError, match="its keys in another order"):
        tables.read_teacher(split, "colours")


def test_find_teacher__a_folder_is_known_by_its_weights(split: Split, tmp_path: Path) -> None:
    for name in ("mine", "theirs", "other"):
        store.write_text(tmp_path / name / "weights.bin", "one" if name != "other" else "two")
    part = _part(split)
    table = store.read_table(part)
    weights = store.sha256_folder(tmp_path / "mine")
    store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"weights_sha256": weights}))
    assert tables.find_teacher(split, "image", str(tmp_path / "mine")) == "colours"
    assert tables.find_teacher(split, "image", str(tmp_path / "theirs")) == "colours", "the same weights elsewhere"
    assert tables.find_teacher(split, "image", str(tmp_path / "other")) == "", "no table was made with these"
    assert tables.find_teacher(split, "text", str(tmp_path / "mine")) == ""


def test_read_parts__no_flipped_byte_is_taken_for_a_row(split: Split) -> None:
    part = _part(split)
    whole = part.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CusaError):
            list(tables.read_parts(split, "colours"))


def test_extraction__a_changed_part_is_not_up_to_date(split: Split) -> None:
    def extracted() -> tuple[bool, str]:
        done = extract.run(ExtractConfig(), split=split, teacher="colours", modality="image", load=lambda *_: Colours())
        return done.fresh, done.why

    part = _part(split)
    assert extracted() == (False, "")
    os.utime(part, ns=(1, 1))
    assert extracted() == (False, ""), "the same bytes at another time"
    data = part.read_bytes()
    part.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert extracted() == (True, f"{part.name} was changed after it was written")
    assert ledger.read(part.parent / "ledger.json") is not None


@pytest.fixture(scope="module")
def two_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a world of three tars with an image and a text teacher, and tables of a student's frozen tower."""
    config = ShardConfig(workers=1, max_images=3)
    work = make_work(tmp_path_factory.mktemp("world"), images=7, captions=2, splits=("train",), config=config)
    split = Split(work, "train")
    for name, modality, teacher in (("org/colours", "image", Colours()), ("words", "text", Words())):
        extract.run(ExtractConfig(), split=split, teacher=name, modality=modality, load=lambda *_, one=teacher: one)
    (split.folder / "teachers/empty").mkdir()
    shutil.copytree(split.folder / "teachers/colours", split.folder / "teachers/tower-image")
    return work


@pytest.fixture
def two(two_made: Path, tmp_path: Path) -> Split:
    shutil.copytree(two_made, tmp_path / "two", copy_function=shutil.copy2)
    return Split(tmp_path / "two", "train")


@pytest.mark.parametrize(("name", "modality"), [("colours", "image"), ("words", "text")])
def test_read_teacher__every_row_is_what_the_teacher_gives(two: Split, name: str, modality: str) -> None:
    """The teacher asked row by row, whatever tar a row lies in."""
    table = tables.read_teacher(two, name)
    if modality == "image":
        keys = two.image_keys
        expected = Colours().encode([Image.open(io.BytesIO(two.image_bytes(row))) for row in range(7)])
    else:
        keys, expected = two.caption_keys, Words().encode(two.texts)
    assert (table.teacher, table.modality, table.keys) == (name, modality, keys)
    np.testing.assert_allclose(table.embeddings, expected, atol=1e-3)
    parts = list(tables.read_parts(two, name))
    assert [len(part.keys) for part in parts] == ([3, 3, 1] if modality == "image" else [6, 6, 2])
    np.testing.assert_array_equal(np.concatenate([part.embeddings for part in parts]), table.embeddings)
    assert {part.modality for part in parts} == {modality}
    assert tables.part_width(two.folder / "teachers" / name / "00000.parquet") == expected.shape[1]
    assert table.metadata["teacher"] == name
    assert tables.provenance(two, name) == {
        **{"teacher": name, "revision": "1", "weights_sha256": "", "transform": table.metadata["transform"]},
        "preprocessing": {"image": "mean colour", "text": "colour words"}[modality],
    }


def test_teachers__those_with_tables_and_towers_if_asked(two: Split) -> None:
    assert tables.teachers(two) == {"colours": "image", "words": "text"}
    assert tables.teachers(two, towers=True) == {"colours": "image", "tower-image": "image", "words": "text"}
    assert tables.provenance(two, "empty") == {
        **{"teacher": "empty", "revision": "", "weights_sha256": "", "preprocessing": "", "transform": ""},
    }


def test_find_teacher__names_and_what_they_stand_for(two: Split) -> None:
    assert tables.find_teacher(two, "image", "colours") == "colours"
    assert tables.find_teacher(two, "image", "org/colours") == "colours"
    assert tables.find_teacher(two, "image", "others/colours") == "", "of the same name, by somebody else"
    assert tables.find_teacher(two, "text", "org/colours") == ""
    assert tables.find_teacher(two, "image", "org/words") == ""


@pytest.mark.parametrize("revision", ["local folder", "imported"])
def test_find_teacher__tables_of_a_folder_or_of_elsewhere_have_no_name_but_their_own(two: Split, revision: str) -> None:
    for part in (two.folder / "teachers/colours").glob("[0-9]*.parquet"):
        table = store.read_table(part)
        store.write_table(part, table.replace_schema_metadata({**table.schema.metadata, b"revision": revision}))
    assert tables.find_teacher(two, "image", "others/colours") == "colours"


def test_find_teacher__several_tables_of_one_folder(two: Split, tmp_path: Path) -> None:
    store.write_text(tmp_path / "mine/weights.bin", "one")
    weights = store.sha256_folder(tmp_path / "mine")
    part = two.folder / "teachers/colours/00000.parquet"
    table = store.read_table(part)
    table = table.replace_schema_metadata({**table.schema.metadata, b"weights_sha256": weights})
    for name in ("one", "other"):
        store.write_table(two.folder / "teachers" / name / "00000.parquet", table)
    with pytest.raises(DataError, match=r"several image tables of .*mine: one, other\. Name one of these"):
        tables.find_teacher(two, "image", str(tmp_path / "mine"))
    store.write_table(two.folder / "teachers/mine/00000.parquet", table)
    assert tables.find_teacher(two, "image", str(tmp_path / "mine")) == "mine"


def test_choose_teacher__the_only_one_or_the_one_that_is_named(two: Split) -> None:
    assert tables.choose_teacher(two, "image") == "colours"
    assert tables.choose_teacher(two, "text") == "words"
    assert tables.choose_teacher(two, "image", "org/colours") == "colours"
    with pytest.raises(DataError, match=r"has no image teacher 'words'; it has colours\. Run `cusa extract.* words`"):
        tables.choose_teacher(two, "image", "words")
    shutil.copytree(two.folder / "teachers/words", two.folder / "teachers/more")
    with pytest.raises(DataError, match=r"has several text teachers: more, words\. Name one \(`--text NAME`"):
        tables.choose_teacher(two, "text")
    assert tables.choose_teacher(two, "text", "more") == "more"
    shutil.rmtree(two.folder / "teachers")
    with pytest.raises(DataError, match=r"has no text teacher\. Run `cusa extract-teachers .* --text TEACHER`"):
        tables.choose_teacher(two, "text")
    with pytest.raises(DataError, match=r"has no text teacher 'x'; it has none\. Run `.* --text x`"):
        tables.choose_teacher(two, "text", "x")


def test_read_parts__what_is_missing_or_of_another_state_is_named(two: Split) -> None:
    with pytest.raises(DataError, match=r"has no teacher 'none'; it has colours, words\. Run `cusa extract-teachers"):
        list(tables.read_parts(two, "none"))
    assert len(list(tables.read_parts(two, "tower-image"))) == 3
    folder = two.folder / "teachers/words"
    part = folder / "00001.parquet"
    table = store.read_table(part)
    store.write_table(part, table.slice(0, 4))
    lost = two.caption_keys[10]
    with pytest.raises(DataError, match=rf"00001\.parquet lacks 2 rows, the first '{lost}'\. Run `.* --force`"):
        list(tables.read_parts(two, "words"))
    other = {**table.schema.metadata, b"shard_sha256": b"ab" * 32}
    store.write_table(part, table.replace_schema_metadata(other))
    with pytest.raises(StaleError, match=r"made from another 00001\.tar \(sha256 abababababab, the shard has "):
        list(tables.read_parts(two, "words"))
    part.unlink()
    with pytest.raises(DataError, match=r"00001\.parquet does not exist\. Run `cusa extract-teachers"):
        list(tables.read_parts(two, "words"))


def _rows(number: int, width: int = 4, dtype: str = "float32") -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(number, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def _write(path: Path, rows: np.ndarray, *, same: bool = False) -> None:
    contents = pa.array([bytes([0 if same else number]) * 32 for number in range(len(rows))], pa.binary(32))
    keys = [f"k{number}" for number in range(len(rows))]
    metadata = {"teacher": "t", "modality": "text"}
    tables.write_teacher_part(path, modality="text", keys=keys, contents=contents, embeddings=rows, metadata=metadata)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_write_teacher_part__comes_back_as_it_was(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(9, dtype=dtype)
    monkeypatch.setattr(tables, "_GROUP_BYTES", 2 * 4 * rows.itemsize)
    _write(tmp_path / "0.parquet", rows)
    table = store.read_table(tmp_path / "0.parquet")
    assert table.column_names == ["caption_key", "embedding", "content"]
    assert table["caption_key"].to_pylist() == [f"k{number}" for number in range(9)]
    assert table["content"].to_pylist() == [bytes([number]) * 32 for number in range(9)]
    matrix = tables.embedding_matrix(table)
    assert matrix.dtype == rows.dtype
    np.testing.assert_array_equal(matrix, rows)
    metadata, number = tables.describe_part(tmp_path / "0.parquet")
    assert number == 9
    assert {name: metadata[name] for name in ("teacher", "modality")} == {"teacher": "t", "modality": "text"}
    assert [len(group) for group in store.table_batches(tmp_path / "0.parquet")] == [2, 2, 2, 2, 1], "cut by bytes"
    np.testing.assert_allclose(tables.row_norms(rows * 3), np.linalg.norm(rows.astype(float) * 3, axis=1), rtol=2e-3)
    assert tables.row_norms(rows[:0]).shape == (0,)
    for value in (3e-3, 40.0):  # the latter's squares sum to more than half precision can hold
        np.testing.assert_allclose(tables.row_norms(np.full((2, 64), value, dtype)), value * 8, rtol=1e-3)
    _write(tmp_path / "1.parquet", rows[:0])
    assert tables.describe_part(tmp_path / "1.parquet")[1] == 0


@pytest.mark.parametrize(("length", "taken"), [(0.992, True), (1.008, True), (0.988, False), (1.012, False)])
def test_write_teacher_part__rows_of_unit_length_within_a_hundredth(tmp_path: Path, length: float, taken: bool) -> None:
    rows = _rows(5)
    rows[3] *= length
    if taken:
        _write(tmp_path / "0.parquet", rows)
    else:
        with pytest.raises(DataError, match=r"Teacher 't' gave 'k3' a vector of length .*\(1 such rows\)"):
            _write(tmp_path / "0.parquet", rows)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_write_teacher_part__the_first_bad_row_is_named(tmp_path: Path, bad: float) -> None:
    rows = _rows(5)
    rows[[2, 4]] = bad
    with pytest.raises(DataError, match=r"gave 'k2' a vector of length .*\(2 such rows\)") as caught:
        _write(tmp_path / "0.parquet", rows)
    assert caught.value.values["key"] == "k2"


def test_write_teacher_part__a_teacher_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    rows = _rows(20)
    rows[[3, 5]] = 0.5
    with pytest.raises(DataError, match=r"Teacher 't' gave 'k3' a constant row, one number repeated \(2 such rows\)"):
        _write(tmp_path / "0.parquet", rows)
    _write(tmp_path / "0.parquet", np.float32([[1], [-1]] * 10))  # of one number each
    same = np.repeat(_rows(1), 16, axis=0)
    with pytest.raises(DataError, match=r"gave 16 rows that are all the same, from 'k0' on"):
        _write(tmp_path / "0.parquet", same)
    _write(tmp_path / "0.parquet", same[:15])
    _write(tmp_path / "0.parquet", same, same=True)
    same[15] = _rows(2)[1]
    _write(tmp_path / "0.parquet", same)


def test_a_part_that_is_broken_says_nothing_of_itself(two: Split, tmp_path: Path) -> None:
    assert tables.describe_part(tmp_path / "none.parquet") == ({}, 0)
    part = two.folder / "teachers/words/00000.parquet"
    table = store.read_table(part)
    part.write_bytes(part.read_bytes()[:-3])
    assert tables.describe_part(part) == tables.describe_part(tmp_path) == ({}, 0)
    for path in (part, tmp_path / "none.parquet"):
        with pytest.raises(DataError, match="no readable teacher table"):
            tables.part_width(path)
    lists = pa.array([[0.6, 0.8]] * len(table), pa.list_(pa.float32()))
    for column in (lists, pa.array([1.0] * len(table))):
        other = table.set_column(1, "embedding", column)
        with pytest.raises(DataError, match=r"'embedding' is .*, not lists of one length"):
            tables.embedding_matrix(other)
        store.write_table(part, other)
        with pytest.raises(DataError, match="no readable teacher table"):
            tables.part_width(part)


FACTS = {
    **{"teacher": "t", "revision": "1", "weights_sha256": "ab", "preprocessing": "p", "transform": "clean"},
    **{"modality": "text", "width": "4"},
}


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, {}, ""),
        ({}, {"teacher": "another", "revision": "2", "modality": "image"}, ""),
        ({}, {"weights_sha256": "cd"}, "weights sha256 'ab' and 'cd'"),
        ({}, {"preprocessing": "q", "transform": "none"}, "preprocessing 'p' and 'q'; transform 'clean' and 'none'"),
        ({}, {"width": "5", "transform": "none"}, "width '4' and '5'; transform 'clean' and 'none'"),
        ({"weights_sha256": ""}, {"weights_sha256": "", "revision": "2"}, "revision '1' and '2'"),
        ({"weights_sha256": ""}, {"revision": "2"}, "weights sha256 '' and 'ab'"),
        ({"revision": "imported"}, {"revision": "imported", "weights_sha256": "cd", "transform": "none"}, ""),
        ({"revision": "imported"}, {"revision": "imported", "width": "5"}, "width '4' and '5'"),
        ({"revision": "imported"}, {"weights_sha256": "cd"}, "weights sha256 'ab' and 'cd'"),
        ({"revision": "imported", "weights_sha256": ""}, {"weights_sha256": "", "revision": "2"}, ""),
        ({}, {"preprocessing": "q" * 99}, f"preprocessing 'p' and {'q' * 60!r}"),
    ],
)
def test_encoder_difference__what_tells_two_tables_apart(
    made: Path, tmp_path: Path, one: dict[str, str], other: dict[str, str], said: str
) -> None:
    split = Split(Path(shutil.copytree(made, tmp_path / "work")), "train")
    for name, changes in (("one", one), ("other", other)):
        facts = {**FACTS, **changes}
        rows = _rows(3, int(facts.pop("width")))
        contents = pa.array([bytes([number]) * 32 for number in range(3)], pa.binary(32))
        path = split.folder / "teachers" / name / "00000.parquet"
        fields = {"keys": ["a", "b", "c"], "contents": contents, "embeddings": rows, "metadata": facts}
        tables.write_teacher_part(path, modality=facts["modality"], **fields)  # type: ignore[arg-type]
    assert tables.encoder_difference((split, "one"), (split, "other")) == said
