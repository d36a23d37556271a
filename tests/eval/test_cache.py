"""Kept embeddings: nothing is encoded twice, nothing stale is used, a kill or a broken file costs its rows alone."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cusa.errors import DataError
from cusa.eval.cache import EmbeddingCache, kept
from cusa.eval.config import EvalConfig
from cusa.eval.encode import TextModel, cache_key, embed_texts, encode
from cusa.manifests.samples import Split
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer

CONFIG = EvalConfig(batch_size=5, bootstrap=0)
SPACES = ("cross", "uni")


def _cache(folder: Path, model: Seer | TextModel, limit: int = 1 << 30) -> EmbeddingCache:
    return EmbeddingCache(folder, cache_key(model, CONFIG), limit=limit)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return worlds.open_split(worlds.make_work(tmp_path, images=7, captions=3), "test")


def test_run__one_more_task_encodes_nothing(tmp_path: Path, split: Split) -> None:
    made: list[Seer] = []

    def load() -> Seer:
        made.append(Seer())
        return made[-1]

    def run(tasks: list[str], out: str) -> dict[str, object]:
        return evaluating.run(
            CONFIG, load=load, student_digest="1", split=split, out=tmp_path / out, tasks=tasks, cache=tmp_path / "kept"
        )

    run(["cross-modal"], "a")
    assert (made[0].images_seen, len(made[0].texts_seen)) == (7, 21)
    with_one_more = run(["cross-modal", "text-to-text"], "a")
    assert with_one_more["fresh"]
    assert (made[1].images_seen, len(made[1].texts_seen)) == (0, 0)
    without = evaluating.run(
        CONFIG, load=load, student_digest="1", split=split, out=tmp_path / "b", tasks=["cross-modal", "text-to-text"]
    )
    assert with_one_more["tasks"] == without["tasks"]
    (book,) = (tmp_path / "kept").glob("*/ledger.json")
    assert json.loads(book.read_text())["counts"] == {"rows": 28, "reused": 28, "computed": 0}


def test_encode__only_what_is_new(tmp_path: Path, split: Split) -> None:
    first, second = Seer(), Seer()
    texts = split.texts[:10]
    embed_texts(first, texts, CONFIG, cache=_cache(tmp_path / "kept", first))
    found = encode(second, split, CONFIG, cache=_cache(tmp_path / "kept", second))
    assert second.texts_seen == split.texts[10:]
    whole = encode(Seer(), split, CONFIG)
    for space in SPACES:
        np.testing.assert_allclose(found.text[space], whole.text[space], atol=1e-6)
        np.testing.assert_array_equal(found.image[space], whole.image[space])


def test_encode__the_same_text_twice_is_encoded_once(tmp_path: Path) -> None:
    model = Seer()
    found = embed_texts(model, ["a red wall", "a blue wall", "a red wall"], CONFIG)
    assert model.texts_seen == ["a red wall", "a blue wall"]
    np.testing.assert_array_equal(found["cross"][0], found["cross"][2])


@pytest.mark.parametrize("what", ["weights", "uni", "width"])
def test_encode__another_model_takes_nothing_of_it(tmp_path: Path, what: str) -> None:
    first = Seer(uni=False) if what == "uni" else Seer()
    embed_texts(first, ["a red wall"], CONFIG, cache=_cache(tmp_path, first))
    other = Seer(seed=1) if what == "weights" else Seer()
    if what == "width":
        other.mix = torch.nn.Parameter(other.mix.detach().double())
        other.mix.data = other.mix.data.float() * 2
    found = embed_texts(other, ["a red wall"], CONFIG, cache=_cache(tmp_path, other))
    assert other.texts_seen == ["a red wall"]
    assert set(found) == set(SPACES)


def test_encode__broken_or_cut_files_cost_their_rows_alone(tmp_path: Path, split: Split) -> None:
    folder = tmp_path / "kept"
    encode(Seer(), split, CONFIG, cache=_cache(folder, Seer()))
    (images,) = folder.glob("*/image-*.parquet")
    images.write_bytes(images.read_bytes()[:-50])
    (images.parent / ".partial-0123456789ab.parquet").write_bytes(b"what a kill left")
    again, cache = Seer(), _cache(folder, Seer())
    found = encode(again, split, CONFIG, cache=cache)
    cache.finish()
    assert (again.images_seen, len(again.texts_seen)) == (7, 0)
    np.testing.assert_array_equal(found.image["uni"], encode(Seer(), split, CONFIG).image["uni"])
    assert not list(images.parent.glob(".partial-*"))


def test_kept__files_of_earlier_versions_are_those_of_their_ledger_and_a_reader_removes_nothing(tmp_path: Path) -> None:
    model = Seer()
    cache = _cache(tmp_path, model)
    embed_texts(model, ["a red wall", "a blue wall"], CONFIG, cache=cache)
    cache.finish()
    (file,) = tmp_path.glob("*/text-*.parquet")
    for path in file.parent.iterdir():
        if path.name not in (file.name, "ledger.json"):
            path.unlink()  # what an earlier version did not write
    contents = [hashlib.sha256(text.encode()).digest() for text in ("a red wall", "a blue wall")]
    damaged: list[Path] = []
    assert len(kept(file.parent, "text", contents, damaged=damaged)[0]) == 2
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    assert len(kept(file.parent, "text", contents, damaged=damaged)[0]) == 0
    assert damaged == [file]
    assert file.read_bytes() == bytes(content)


def test_write__stays_within_its_bound_and_drops_the_oldest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    limit = 5 * (100 * 8 * 4 + 3200)
    for number in range(12):
        cache = EmbeddingCache(tmp_path, {"weights": str(number % 2)}, limit=limit)
        contents = [f"{number:16d}{row:16d}".encode() for row in range(100)]
        cache.write("text", contents, {"uni": rng.standard_normal((100, 8)).astype(np.float32)})
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) <= limit
    last = [f"{11:16d}{row:16d}".encode() for row in range(100)]
    assert len(EmbeddingCache(tmp_path, {"weights": "1"}, limit=limit).read("text", last)[0]) == 100
    small = EmbeddingCache(tmp_path / "small", {}, limit=10)
    small.write("text", last, {"uni": rng.standard_normal((100, 8))})
    assert not list((tmp_path / "small").rglob("*.parquet"))


def test_write__makes_room_by_what_was_not_used_for_longest(tmp_path: Path) -> None:
    """Reading is use, writing is not the only one."""
    contents = [[f"{number:16d}{row:16d}".encode() for row in range(10)] for number in range(5)]
    rows = {"uni": np.zeros((10, 4), dtype=np.float32)}
    cache = EmbeddingCache(tmp_path, {}, limit=1 << 30)
    for number in range(3):
        cache.write("text", contents[number], rows)
        (new,) = [path for path in tmp_path.rglob("*.parquet") if path.stat().st_mtime > 100]
        os.utime(new, (10 + number, 10 + number))
    three = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    need = rows["uni"].nbytes + 32 * 10
    bounded = EmbeddingCache(tmp_path, {}, limit=three + need - 1)
    assert len(bounded.read("text", contents[0])[0]) == 10, "which is used now, though written first"
    bounded.write("text", contents[3], rows)
    assert [len(bounded.read("text", one)[0]) for one in contents] == [10, 0, 10, 10, 0]


def test_encode__a_row_that_is_no_number_is_named_and_not_kept(tmp_path: Path, split: Split) -> None:
    model = Seer()
    with torch.no_grad():
        model.mix[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"embedding of the image 'mini/\S+' holds NaN"):
        encode(model, split, CONFIG, cache=_cache(tmp_path / "kept", model))
    assert not list((tmp_path / "kept").rglob("*.parquet"))


def test_run__a_key_that_comes_twice_is_refused(tmp_path: Path, split: Split) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    work = tmp_path / "double"
    shutil.copytree(split.work, work)
    path = work / "test/captions.parquet"
    table = pq.read_table(path)
    keys = table["caption_key"].to_pylist()
    keys[1] = keys[0]
    pq.write_table(table.set_column(0, "caption_key", pa.array(keys)), path)
    with pytest.raises(DataError, match="comes twice"):
        evaluating.run(CONFIG, load=Seer, student_digest="1", split=Split(work, "test"), out=tmp_path / "o")


@pytest.mark.parametrize("damage", ["zeroed", "swapped", "no checksum"])
def test_encode__a_file_whose_bytes_are_others_is_computed_again_and_said(tmp_path: Path, damage: str) -> None:
    """Rows of another value in a file that reads well went into every number unseen."""
    texts, others = ["a red wall", "a blue wall"], ["a green wall", "a grey wall"]
    expected = embed_texts(Seer(), texts, CONFIG)
    embed_texts(Seer(), texts, CONFIG, cache=_cache(tmp_path, Seer()))
    (file,) = tmp_path.glob("*/text-*.parquet")
    if damage == "zeroed":
        content = bytearray(file.read_bytes())
        content[100:140] = bytes(40)
        file.write_bytes(bytes(content))
    elif damage == "swapped":
        (other,) = _file_of(tmp_path / "other", others)
        file.write_bytes(other.read_bytes())
    else:
        file.with_name(file.name + ".sum.json").unlink()
    model = Seer()
    cache = _cache(tmp_path, model)
    found = embed_texts(model, texts, CONFIG, cache=cache)
    for space in SPACES:
        np.testing.assert_array_equal(found[space], expected[space])
    assert model.texts_seen == texts
    assert [path.name for path in cache.damaged] == [file.name]
    assert "computed again" in cache.notes()[0]
    again = Seer()
    embed_texts(again, texts, CONFIG, cache=_cache(tmp_path, again))
    assert again.texts_seen == [], "what was written anew is sound"


def _file_of(folder: Path, texts: list[str]) -> list[Path]:
    embed_texts(Seer(), texts, CONFIG, cache=_cache(folder, Seer()))
    return list(folder.glob("*/text-*.parquet"))
