"""Teacher tables: one row a key, in the shard's order; stale, cut or foreign ones refused by name."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.models.teachers.base import Teacher
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract import stage
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


def _hidden(folder: Path) -> list[str]:
    """Return what a run left beside its parts, but for the lock's file, which stays."""
    return [path.name for path in folder.glob(".*") if path.name != store.LOCK]


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
    texts: list[str] = []

    class Listens(Words):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            texts.extend(items)
            return super().encode(items)

    _run(work, "words", "text", load=lambda *_: Listens())
    assert texts[0] == "a red wall seen 0 times from side 0"


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
    assert _hidden(folder) == []


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
    """One bit: most such pictures still decode, to other pixels."""
    tar = work / "train/00001.tar"
    whole = tar.read_bytes()
    split = Split(work, "train")
    start, size = (int(split.samples[name][4].as_py()) for name in ("image_offset", "image_bytes"))
    for place in range(start, start + size, size // 12):
        data = bytearray(whole)
        data[place] ^= 1
        tar.write_bytes(data)
        with pytest.raises(
            DataError, match=r"00001\.tar: the bytes of mini/picture_0004 are not those that were sharded"
        ):
            _run(work, "colours", "image")
        assert not (work / "train/teachers/colours/00001.parquet").exists()
    tar.write_bytes(whole)
    assert _run(work, "colours", "image").fresh


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


class Counting(Words):
    """A text teacher that remembers what it was asked, batch by batch, and sees every letter."""

    width = 26

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def lengths(self, items: Sequence[str]) -> np.ndarray:
        return np.array([len(text) for text in items])

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        self.batches.append(list(items))
        rows = np.array([[text.count(chr(97 + n)) + 0.1 * n for n in range(26)] for text in items], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def _grow(
    tmp_path: Path, number: int, *, work: Path, size: int = 4, texts: Callable[[int, int], str] | None = None
) -> None:
    """Shard a world of `number` training images into `work`; caption `position` of image `i` is texts(i, position)."""
    source = write_karpathy(tmp_path / "raw", images=number, splits=("train",))
    if texts is not None:
        content = store.read_json(source)
        for image, row in enumerate(content["images"]):
            for position, sentence in enumerate(row["sentences"]):
                sentence["raw"] = texts(image, position)
        store.write_json(source, content)
    reading = readers.read("karpathy", source, source.parent)
    shard.run(ShardConfig(max_images=size, workers=1), reading=reading, out=work)


def test_run__equal_texts_are_computed_once_in_batches_of_equal_length(tmp_path: Path) -> None:
    work = tmp_path / "work"
    # Caption 0 is the same everywhere, caption 1 in every second image, the rest differ.
    _grow(
        tmp_path,
        10,
        work=work,
        texts=lambda i, p: "same" if p == 0 else f"pair {i % 2}" if p == 1 else f"x{i} " * (i + p),
    )
    teacher = Counting()
    done = _run(work, "counting", "text", load=lambda *_: teacher)
    split = Split(work, "train")
    distinct = {text.strip() for text in split.texts}
    assert sorted(teacher.asked) == sorted(distinct)
    assert done.counts["computed"] == len(distinct) < 50 == done.counts["rows"]
    for batch in teacher.batches:
        assert [len(text) for text in batch] == sorted(map(len, batch), reverse=True)
    table = tables.read_teacher(split, "counting")
    alone = np.concatenate([Counting().encode([text.strip()]) for text in split.texts])
    np.testing.assert_array_equal(table.embeddings, alone)


def test_run__a_grown_data_set_costs_what_was_added(tmp_path: Path) -> None:
    work = tmp_path / "work"
    _grow(tmp_path, 20, work=work)
    teacher, colours = Counting(), Colours()
    _run(work, "counting", "text", load=lambda *_: teacher)
    _run(work, "colours", "image", load=lambda *_: colours)
    before = {name: tables.read_teacher(Split(work, "train"), name) for name in ("counting", "colours")}
    teacher.batches.clear()
    # Other tar sizes move almost every row to another tar; two images are new.
    _grow(tmp_path, 22, work=work, size=5)
    assert _run(work, "counting", "text", load=lambda *_: teacher).counts["computed"] == 10
    assert _run(work, "colours", "image").counts["computed"] == 2
    assert len(teacher.asked) == 10
    split = Split(work, "train")
    for name, old in before.items():
        new = tables.read_teacher(split, name)
        row_of = {key: row for row, key in enumerate(new.keys)}
        np.testing.assert_array_equal(new.embeddings[[row_of[key] for key in old.keys]], old.embeddings)
        assert _hidden(split.folder / "teachers" / name) == []
    # Fewer images again: nothing is computed, the parts of tars that are gone are gone.
    _grow(tmp_path, 7, work=work)
    assert _run(work, "counting", "text", load=_never_encodes).counts["computed"] == 0
    assert len(list((work / "train/teachers/counting").glob("*.parquet"))) == 2


def _never_encodes(name: str, modality: str) -> Teacher:
    class Blind(Counting):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            raise AssertionError("nothing was to be computed")

    return Blind()


@pytest.mark.parametrize("change", [{"transform": "none"}, {"dtype": "float16"}, {"precision": "float32"}])
def test_run__another_transform_number_or_precision_computes_all_again(work: Path, change: dict[str, Any]) -> None:
    _run(work, "words", "text")
    config = CONFIG.model_copy(update=change)
    done = extract.run(config, split=Split(work, "train"), teacher="words", modality="text", load=_load)
    assert done.counts["computed"] == 45
    assert next(iter(change)).split("_")[0] in done.why


def test_run__float16_is_measured_against_float32(work: Path) -> None:
    teacher = Counting()
    config = ExtractConfig(batch_size=7, dtype="float16")
    split = Split(work, "train")
    done = extract.run(config, split=split, teacher="counting", modality="text", load=lambda *_: teacher)
    stored = tables.read_teacher(split, "counting").embeddings
    assert stored.dtype == np.float16
    exact = teacher.encode([text.strip().lower().replace(",", " ").replace(".", " ") for text in split.texts])
    assert done.counts["fidelity_rows"] == 3 * 20 - 15  # 20 + 20 + 5 distinct captions, all of them sampled
    pairs = np.abs(_cosines(stored) - exact.astype(np.float64) @ exact.T.astype(np.float64)).max()
    assert 0 < done.counts["fidelity_worst_pair"] <= pairs * 1.01
    assert done.counts["fidelity_worst_row"] < 1e-6
    assert "Fidelity of float16 against float32 on a sample of 45 rows" in done.notes[0]


def _cosines(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide @ wide.T


def test_run__a_teacher_that_sees_nothing_is_refused(work: Path) -> None:
    class Same(Counting):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            return super().encode(["the same"] * len(items))

    class Flat(Counting):
        def encode(self, items: Sequence[Any]) -> np.ndarray:
            rows = super().encode(items)
            rows[-1] = 26**-0.5
            return rows

    with pytest.raises(DataError, match="rows that are all the same"):
        _run(work, "same", "text", load=lambda *_: Same())
    with pytest.raises(DataError, match="a constant row, one number repeated"):
        _run(work, "flat", "text", load=lambda *_: Flat())


def test_run__every_truncation_is_found_and_mended_to_the_same_bytes(tmp_path: Path) -> None:
    work = tmp_path / "work"
    _grow(tmp_path, 12, work=work, size=12, texts=lambda i, p: f"{i} {p} " + chr(97 + i) * (p + 1))
    config = ExtractConfig(dtype="float32")

    class Wide(Counting):
        width = 400

        def encode(self, items: Sequence[Any]) -> np.ndarray:
            rows = np.stack([np.random.default_rng(list(text.encode())).normal(size=400) for text in items])
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def run() -> Outcome:
        return extract.run(config, split=Split(work, "train"), teacher="wide", modality="text", load=lambda *_: Wide())

    run()
    path = work / "train/teachers/wide/00000.parquet"
    whole = path.read_bytes()
    cuts = range(0, len(whole), 4096)
    assert len(cuts) > 20
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"00000\.parquet is no readable Parquet"):
            tables.read_teacher(Split(work, "train"), "wide") if cut else store.read_table(path)
        assert "bytes instead of" in run().why
        assert path.read_bytes() == whole


@pytest.mark.parametrize("workers", [2])
def test_run__worker_processes_give_the_same_bytes(tmp_path: Path, workers: int) -> None:
    work = make_work(tmp_path, images=12, splits=("train",), config=ShardConfig(max_images=4, workers=1))
    here = extract.run(ExtractConfig(), split=Split(work, "train"), teacher="offline-ngrams", modality="text")
    folder = work / "train/teachers/offline-ngrams"
    alone = {part.name: part.read_bytes() for part in folder.glob("*.parquet")}
    events: list[tuple[int, int]] = []
    done = extract.run(
        ExtractConfig(workers=workers),
        split=Split(work, "train"),
        teacher="offline-ngrams",
        modality="text",
        force=True,
        on_event=lambda what, done, total: events.append((done, total)),
    )
    assert done.counts == here.counts
    assert {part.name: part.read_bytes() for part in folder.glob("*.parquet")} == alone
    assert events[-1] == (60, 60)
    assert _hidden(folder) == []


@pytest.mark.parametrize(("teacher", "modality"), [("colours", "image"), ("words", "text")])
def test_run__every_part_says_what_made_it_and_of_which_tar(work: Path, teacher: str, modality: str) -> None:
    split = Split(work, "train")
    done = _run(work, teacher, modality)
    parts = sorted((split.folder / "teachers" / teacher).glob("0*.parquet"))
    tars = sorted(split.folder.glob("*.tar"))
    assert [part.stem for part in parts] == [tar.stem for tar in tars]
    for part, tar in zip(parts, tars, strict=True):
        metadata = tables.read_part_metadata(part)
        card = json.loads(metadata.pop("fidelity"))
        assert metadata == {
            **_load(teacher, modality).provenance(),
            "teacher": teacher,
            "modality": modality,
            "weights_sha256": "",
            "dtype": "float32",
            "transform": "clean" if modality == "text" else "rgb",
            "precision_asked": "auto",
            "shard": tar.name,
            "shard_sha256": store.sha256_file(tar),
        }
        assert card["rows"] == pq.read_metadata(part).num_rows
    written = ledger.read(parts[0].with_name("ledger.json"))
    assert written is not None
    assert written.inputs == {"split": split.digest}
    assert written.parameters == {
        "teacher": teacher,
        "modality": modality,
        "weights_sha256": "",
        "dtype": "float32",
        "transform": "clean" if modality == "text" else "rgb",
        "precision_asked": "auto",
    }
    assert written.digests == {part.name: store.sha256_file(part) for part in parts}
    assert written.counts == done.counts


def test_card__joins_parts_by_their_rows(tmp_path: Path) -> None:
    """The mean weighs each part by its rows, the worst is the worst of all; parts without a card do not count."""
    cards = [
        {"rows": 30, "mean_row": 0.1, "worst_row": 0.4, "worst_pair": 0.2},
        {},
        {"rows": 10, "mean_row": 0.5, "worst_row": 0.3, "worst_pair": 0.9},
    ]
    parts = []
    for number, card in enumerate(cards):
        parts.append(tmp_path / f"{number}.parquet")
        table = pa.table({"x": [1]}).replace_schema_metadata({"fidelity": json.dumps(card)})
        pq.write_table(table, parts[-1])
    assert stage._card(parts) == {
        "fidelity_rows": 40,
        "fidelity_mean_row": pytest.approx(0.2),
        "fidelity_worst_row": 0.4,
        "fidelity_worst_pair": 0.9,
    }
    assert stage._card(parts[1:2]) == {}
    assert stage._notes({}, "float16") == ()
    assert stage._notes(stage._card(parts), "float16") == (
        "Fidelity of float16 against float32 on a sample of 40 rows: 1 - cosine of a row 4.0e-01 at most (2.0e-01 on "
        "average), cosines of pairs off by 9.0e-01 at most.",
    )
