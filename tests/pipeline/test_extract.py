"""Teacher tables: one row a key, in the shard's order; stale, cut or foreign ones refused by name."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import store, tables
from cusa.manifests.samples import Split
from cusa.models.teachers import Teacher
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.stage import Outcome
from tests.worlds import COLOURS, Colours, Words, make_work, write_karpathy

CONFIG = ExtractConfig(batch_size=4, dtype="float32")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return make_work(tmp_path, images=9, config=ShardConfig(max_images=4, workers=1))


def _load(name: str, modality: str) -> Teacher:
    return {"colours": Colours, "words": Words}[name]()  # type: ignore[return-value]


def _never(name: str, modality: str) -> Teacher:
    raise AssertionError("nothing was to be computed")


def _run(
    work: Path, teacher: str, modality: str, *, load: Callable[[str, str], Teacher] = _load, **more: Any
) -> Outcome:
    return extract.run(CONFIG, split=Split(work, "train"), teacher=teacher, modality=modality, load=load, **more)


def test_run__rows_are_the_images_and_captions_in_order(work: Path) -> None:
    assert {"rows": 9, "computed": 9, "width": 3}.items() <= _run(work, "colours", "image").counts.items()
    assert {"rows": 45, "computed": 45, "width": 5}.items() <= _run(work, "words", "text").counts.items()
    split = Split(work, "train")
    images = tables.read_teacher(split, "colours")
    texts = tables.read_teacher(split, "words")
    assert images.keys == split.image_keys
    assert texts.keys == split.caption_keys
    for row, text in enumerate(split.texts):
        assert list(COLOURS)[int(texts.embeddings[row].argmax())] in text.lower()
    np.testing.assert_allclose(np.linalg.norm(images.embeddings, axis=1), 1, atol=1e-6)
    assert images.metadata["modality"] == "image"
    assert texts.metadata["transform"] == "clean"
    assert tables.teachers(split) == {"colours": "image", "words": "text"}


def test_run__the_text_teacher_reads_cleaned_captions(work: Path) -> None:
    heard: list[str] = []

    class Listens(Words):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            heard.extend(items)
            return super().encode(items)

    _run(work, "words", "text", load=lambda *_: Listens())
    assert heard[0] == "a red wall seen 0 times from side 0"


def test_run__again_is_up_to_date_without_loading_the_teacher(work: Path) -> None:
    assert _run(work, "colours", "image").why == "never finished"
    assert not _run(work, "colours", "image", load=_never).fresh
    assert _run(work, "colours", "image", force=True).counts["computed"] == 9


def test_run__only_what_is_missing_is_computed(work: Path) -> None:
    _run(work, "colours", "image")
    folder = work / "train/teachers/colours"
    whole = {part.name: part.read_bytes() for part in folder.glob("0*.parquet")}
    assert len(whole) == 3
    (folder / "00001.parquet").write_bytes(whole["00001.parquet"][:-9])
    (folder / "ledger.json").unlink()
    (folder / f"{store.TEMPORARY}left.parquet").write_text("by a kill")
    assert _run(work, "colours", "image").counts["computed"] == 4
    assert {part.name: part.read_bytes() for part in folder.glob("*.parquet")} == whole
    assert not list(folder.glob(".*"))


def test_read_teacher__a_table_of_another_shard_is_refused_and_mended(tmp_path: Path, work: Path) -> None:
    _run(work, "colours", "image")
    source = write_karpathy(tmp_path / "raw", images=9, captions=4)
    reading = readers.read("karpathy", source, source.parent)
    shard.run(ShardConfig(max_images=4, workers=1), reading=reading, out=work)
    with pytest.raises(StaleError, match=r"00000\.parquet was made from another 00000\.tar.*cusa extract-teachers"):
        tables.read_teacher(Split(work, "train"), "colours")
    assert _run(work, "colours", "image").why == "split changed"
    assert len(tables.read_teacher(Split(work, "train"), "colours").keys) == 9


def test_read_teacher__a_lost_row_a_wrong_order_and_a_cut_file_are_refused(work: Path) -> None:
    _run(work, "colours", "image")
    path = work / "train/teachers/colours/00001.parquet"
    table = pq.read_table(path)
    store.write_table(path, table.slice(1))
    with pytest.raises(DataError, match=r"lacks 1 rows, the first 'mini/picture_0004'"):
        tables.read_teacher(Split(work, "train"), "colours")
    store.write_table(path, table.take(pa.array([1, 0, 2, 3])))
    with pytest.raises(StaleError, match="another order"):
        tables.read_teacher(Split(work, "train"), "colours")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="no readable Parquet"):
        tables.read_teacher(Split(work, "train"), "colours")
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.parquet does not exist"):
        tables.read_teacher(Split(work, "train"), "colours")


@pytest.mark.parametrize("bad", [np.nan, 0.0, np.inf, 3.0])
def test_run__a_row_that_is_no_unit_vector_is_refused_with_its_key(work: Path, bad: float) -> None:
    class Broken(Colours):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            rows = super().encode(items)
            rows[1] *= bad
            return rows

    with pytest.raises(DataError, match="mini/picture_0001"), np.errstate(invalid="ignore", over="ignore"):
        _run(work, "colours", "image", load=lambda *_: Broken())
    assert not (work / "train/teachers/colours/00000.parquet").exists()


def test_run__a_tar_damaged_after_sharding_is_named(work: Path) -> None:
    tar = work / "train/00001.tar"
    data = bytearray(tar.read_bytes())
    split = Split(work, "train")
    start = int(split.samples["image_offset"][4].as_py())
    data[start : start + 600] = bytes(600)
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"mini/picture_0004.*was damaged"):
        _run(work, "colours", "image")


def test_choose_teacher__names_what_there_is(work: Path) -> None:
    split = Split(work, "train")
    with pytest.raises(DataError, match=r"has no image teacher\. Run `cusa extract-teachers"):
        tables.choose_teacher(split, "image")
    _run(work, "colours", "image")
    assert tables.choose_teacher(split, "image") == "colours"
    with pytest.raises(DataError, match="no image teacher 'colors'; it has colours"):
        tables.choose_teacher(split, "image", "colors")
    shutil.copytree(work / "train/teachers/colours", work / "train/teachers/other")
    with pytest.raises(DataError, match="several image teachers: colours, other"):
        tables.choose_teacher(split, "image")
    assert tables.choose_teacher(split, "image", "other") == "other"
