"""What is planned and reused is known by its bytes: never by a plan of another state, a name or metadata."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.models.teachers.base import Teacher
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract import plan
from tests.worlds import Words, write_karpathy

CONFIG = ExtractConfig(batch_size=4, dtype="float32")


class Letters(Words):
    """A text teacher that sees every letter, says what it was asked, and dies when it was asked too often."""

    width = 26

    def __init__(self, dies_after: int = 1000, weights: str = "none") -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        if len(self.asked) + len(items) > self.dies_after:
            raise KeyboardInterrupt
        self.asked.extend(items)
        rows = np.array([[text.count(chr(97 + n)) + 0.1 * n for n in range(26)] for text in items], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _world(folder: Path, texts: Callable[[int, int], str], *, images: int = 9, captions: int = 2) -> Path:
    """Shard images in tars of three; caption `position` of image `i` is texts(i, position)."""
    source = write_karpathy(folder / "raw", images=images, splits=("train",), captions=captions)
    content = store.read_json(source)
    for image, row in enumerate(content["images"]):
        for position, sentence in enumerate(row["sentences"]):
            sentence["raw"] = texts(image, position)
    store.write_json(source, content)
    reading = readers.read("karpathy", source, source.parent)
    shard.run(ShardConfig(max_images=3, workers=1), reading=reading, out=folder / "work")
    return folder / "work"


def _extract(work: Path, teacher: Teacher | None = None, **more: Any) -> Outcome:
    made = teacher or Letters()
    return extract.run(
        CONFIG, split=Split(work, "train"), teacher="letters", modality="text", load=lambda *_: made, **more
    )


def _truth(work: Path) -> np.ndarray:
    """Return every caption's row, embedded one by one."""
    teacher = Letters()
    return np.concatenate([teacher.encode([text.strip().lower()]) for text in Split(work, "train").texts])


def _rows(work: Path) -> np.ndarray:
    return tables.read_teacher(Split(work, "train"), "letters").embeddings


def _old(i: int, p: int) -> str:
    return f"old {chr(97 + i) * 3} {chr(107 + p)}"


def _new(i: int, p: int) -> str:
    return f"new {chr(98 + i) * 5} {chr(109 + p)}"


def test_contents__are_of_the_text_that_the_teacher_reads(tmp_path: Path) -> None:
    work = _world(tmp_path, lambda i, p: ["A  Red wall.", "a red, wall"][p] if i % 2 else f"B{i} {p}")
    split = Split(work, "train")
    cleaned = {"A  Red wall.": "a  red wall", "a red, wall": "a red wall"}
    for transform in ("none", "clean"):
        expected = [hashlib.sha256(_read(text, transform).encode()).digest() for text in split.texts]
        assert plan.contents(split, "text", transform).to_pylist() == expected
        assert plan.contents(split, "text", transform, rows=[3, 1]).to_pylist() == [expected[3], expected[1]]
    assert set(cleaned) <= set(split.texts)
    assert _read("A  Red wall.", "clean") != "A  Red wall."
    images = [hashlib.sha256(split.image_bytes(row)).digest() for row in range(split.num_images)]
    assert plan.contents(split, "image", "rgb").to_pylist() == images


def _read(text: str, transform: str) -> str:
    """Return a caption as the release's text teacher reads it, written down here a second time."""
    if transform == "none":
        return text
    for sign in '.!"()*#:;~':
        text = text.replace(sign, " ")
    return " ".join(text.lower().replace(",", " ").split()) if transform == "clean" else text


def test_run__texts_that_read_the_same_are_embedded_once(tmp_path: Path) -> None:
    work = _world(tmp_path, lambda i, p: ["The same wall", "THE SAME WALL."][p])
    teacher = Letters()
    done = _extract(work, teacher)
    assert teacher.asked == ["the same wall"]
    assert (done.counts["computed"], done.counts["rows"]) == (1, 18)


def test_begin__a_killed_runs_plan_is_not_used_for_another_state_of_the_split(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    (folder / "ledger.json").unlink()
    (folder / "00002.parquet").unlink()
    with pytest.raises(KeyboardInterrupt):
        _extract(work, Letters(dies_after=0))
    assert (folder / plan.WORKSHOP / "plan.json").is_file()
    _world(tmp_path, _new)  # as many tars and rows, all others
    assert _extract(work).counts["computed"] == 18
    np.testing.assert_array_equal(_rows(work), _truth(work))


def test_begin__a_killed_runs_plan_is_not_used_for_another_teacher(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    (folder / "ledger.json").unlink()
    (folder / "00002.parquet").unlink()
    with pytest.raises(KeyboardInterrupt):
        _extract(work, Letters(dies_after=0))
    assert store.read_json(folder / plan.WORKSHOP / "plan.json")["kept"].keys() == {"00000.parquet", "00001.parquet"}
    done = extract.run(
        CONFIG.model_copy(update={"dtype": "float16"}),
        split=Split(work, "train"),
        teacher="letters",
        modality="text",
        load=lambda *_: Letters(),
    )
    assert done.counts["computed"] == 18
    assert _rows(work).dtype == np.float16


def test_begin__a_killed_run_goes_on_with_what_it_finished(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    with pytest.raises(KeyboardInterrupt):
        _extract(work, Letters(dies_after=14))
    teacher = Letters()
    assert _extract(work, teacher).counts["computed"] == len(teacher.asked) == 6
    np.testing.assert_array_equal(_rows(work), _truth(work))


def _replace(part: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a part anew, whole and with the same metadata."""
    table = pq.read_table(part)
    store.write_table(part, change(table).replace_schema_metadata(table.schema.metadata))


def _rolled(table: pa.Table) -> pa.Table:
    rows = table["embedding"].combine_chunks()
    rolled = rows.take(pa.array([*range(1, len(rows)), 0]))
    return table.set_column(table.column_names.index("embedding"), table.schema.field("embedding"), rolled)


def test_run__rows_replaced_under_the_same_metadata_are_computed_again(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    whole = {part.name: part.read_bytes() for part in folder.glob("0*.parquet")}
    _replace(folder / "00001.parquet", _rolled)
    assert tables.describe_part(folder / "00001.parquet")[1] == 6
    (folder / "00002.parquet").write_bytes(b"short")  # so that the stage is due
    teacher = Letters()
    _extract(work, teacher)
    assert len(teacher.asked) == 12, "both parts"
    assert {part.name: part.read_bytes() for part in folder.glob("0*.parquet")} == whole


def test_run__a_part_that_was_changed_while_the_run_was_dead_is_computed_again(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    whole = {part.name: part.read_bytes() for part in folder.glob("0*.parquet")}
    (folder / "00002.parquet").unlink()
    with pytest.raises(KeyboardInterrupt):
        _extract(work, Letters(dies_after=0))
    _replace(folder / "00000.parquet", _rolled)
    (folder / "00001.parquet").unlink()
    teacher = Letters()
    _extract(work, teacher)
    assert len(teacher.asked) == 18
    assert {part.name: part.read_bytes() for part in folder.glob("0*.parquet")} == whole


def test_run__flipped_bytes_of_an_old_part_are_not_copied_into_a_new_one(tmp_path: Path) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    data = bytearray((folder / "00000.parquet").read_bytes())
    data[len(data) // 3] ^= 4
    (folder / "00000.parquet").write_bytes(data)
    _world(tmp_path, lambda i, p: _old(i, p) if i < 6 else _new(i, p))
    assert _extract(work).counts["computed"] == 12, "the damaged part's rows and the new ones"
    np.testing.assert_array_equal(_rows(work), _truth(work))


def _row_too_few(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def _other_order(table: pa.Table) -> pa.Table:
    return table.take(pa.array([1, 0, *range(2, len(table))]))


@pytest.mark.parametrize("change", [_row_too_few, _other_order, None])
def test_begin__without_a_ledger_a_part_counts_by_its_rows_and_pages(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table] | None
) -> None:
    work = _world(tmp_path, _old)
    _extract(work)
    folder = work / "train/teachers/letters"
    whole = {part.name: part.read_bytes() for part in folder.glob("0*.parquet")}
    (folder / "ledger.json").unlink()
    part = folder / "00000.parquet"
    if change is not None:
        _replace(part, change)
    else:
        data = bytearray(whole[part.name])
        data[len(data) // 3] ^= 4
        part.write_bytes(data)
    _extract(work)
    rows = {name: pq.read_table(folder / name).to_pylist() for name in whole}
    assert rows[part.name] == pq.read_table(pa.BufferReader(whole[part.name])).to_pylist()
    np.testing.assert_array_equal(_rows(work), _truth(work))


@pytest.mark.parametrize("there", ["another organisation", "another modality", "imported"])
def test_refuse_another_teacher__of_the_same_folder_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    from cusa.models.teachers import registry
    from cusa.pipeline.extract import import_features, stage

    work = _world(tmp_path, _old)
    split = Split(work, "train")
    digests = {"one/letters": "1" * 64, "two/letters": "2" * 64, "letters": "1" * 64}
    for module in (stage, registry):
        monkeypatch.setattr(module, "weights_digest", digests.__getitem__)

    def run(teacher: str, modality: str = "text", force: bool = False) -> Outcome:
        return extract.run(
            CONFIG, split=split, teacher=teacher, modality=modality, load=lambda *_: Letters(), force=force
        )

    if there == "imported":
        np.savez(tmp_path / "f.npz", ids=np.array(split.caption_keys), features=np.eye(18, dtype=np.float32) + 0.1)
        features = import_features.read_features(tmp_path / "f.npz")
        import_features.run(CONFIG, split=split, features=features, sha256="0" * 64, teacher="letters", modality="text")
    else:
        run("two/letters")
    before = {part.name: part.read_bytes() for part in (work / "train/teachers/letters").iterdir()}
    teacher, modality = ("two/letters", "image") if there == "another modality" else ("one/letters", "text")
    with pytest.raises(ConfigError, match=r"teachers/letters holds the text embeddings of another teacher.*--force"):
        run(teacher, modality)
    assert {part.name: part.read_bytes() for part in (work / "train/teachers/letters").iterdir()} == before
    if modality == "text":
        assert run("one/letters", force=True).fresh
        assert not run("letters").fresh, "the same weights under a shorter name are the same teacher"
