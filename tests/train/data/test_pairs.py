import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.train.data.pairs import _FILES, Pairs, Writer
from cusa.train.data.rows import Strings


def _same(pairs: Pairs, split: Split) -> None:
    assert [pairs.caption_keys[row] for row in range(split.num_captions)] == split.caption_keys
    assert [pairs.texts[row] for row in range(split.num_captions)] == split.texts
    assert [pairs.image_keys[row] for row in range(split.num_images)] == split.image_keys
    assert pairs.owner.whole().tolist() == split.caption_owner.tolist()
    for row in range(split.num_images):
        assert pairs.shard(row) == split.samples["shard"][row].as_py()
        assert pairs.image_bytes(row) == split.image_bytes(row)
        pairs.check(row, split.image_bytes(row))


def test_rows_are_those_of_the_tables(world: Path) -> None:
    split = Split(world, "train")
    pairs = Pairs(split)
    _same(pairs, split)
    _same(pickle.loads(pickle.dumps(pairs)), split)
    assert "captions" not in vars(Split(world, "train")), "opening a split reads no large table"


def test_captions_of_any_script_and_none(own_world: Path) -> None:
    path = own_world / "train" / "captions.parquet"
    table = pq.read_table(path)
    texts = ["", "ein Haus", "家", "🐈" * 40, *table["text"].to_pylist()[4:]]
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, "text", pa.array(texts)), path)
    split = Split(own_world, "train")
    assert [Pairs(split).texts[row] for row in range(36)] == texts


def test_made_again_when_cut_or_of_another_state(own_world: Path) -> None:
    folder = own_world / "train" / "cache"
    split = Split(own_world, "train")
    Pairs(split)
    place = next(folder.glob("pairs-*"))
    stamp = place.stat().st_mtime_ns
    Pairs(split)
    assert place.stat().st_mtime_ns == stamp
    for name in ("owner", "text", "image_key.ends"):
        file = place / name
        file.write_bytes(file.read_bytes()[:-3])
        _same(Pairs(Split(own_world, "train")), split)
    path = own_world / "train" / "captions.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    Pairs(Split(own_world, "train"))
    assert [old.name for old in folder.glob("pairs-*")] != [place.name]
    assert len(list(folder.glob("pairs-*"))) == 1


def _rolled(path: Path) -> None:
    path.write_bytes(np.roll(np.fromfile(path, dtype="<i8"), 1).tobytes())


def _other_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().swapcase())


def _flipped(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "damage"),
    [("owner", _rolled), ("text", _other_text), *((name, _flipped) for name in _FILES)],
)
def test_a_file_changed_in_place_is_built_again_and_named(
    own_world: Path, name: str, damage: Callable[[Path], None]
) -> None:
    split = Split(own_world, "train")
    assert Pairs(split).notes == ()
    place = next((own_world / "train" / "cache").glob("pairs-*"))
    before = (place / name).read_bytes()
    damage(place / name)
    assert len((place / name).read_bytes()) == len(before)
    assert (place / name).read_bytes() != before
    pairs = Pairs(Split(own_world, "train"))
    _same(pairs, split)
    assert (place / name).read_bytes() == before
    assert f"The cache {place} was damaged and was built again ({name}: xxh3" in pairs.notes[0]
    assert Pairs(split).notes == ()


def test_elsewhere_where_the_work_folder_cannot_be_written(own_world: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_world / "train" / "cache", ignore_errors=True)
    (own_world / "train" / "cache").write_text("a file in the way, as root may write anywhere")
    split = Split(own_world, "train")
    _same(Pairs(split, fallback=tmp_path / "other"), split)
    with pytest.raises(DataError, match="cannot be written"):
        Pairs(split)


def test_check__other_bytes_are_refused(world: Path) -> None:
    pairs = Pairs(Split(world, "train"))
    split = Split(world, "train")
    for row in (3, 9):  # the tars hold 7 images
        tar, key = split.folder / split.samples["shard"][row].as_py(), split.image_keys[row]
        with pytest.raises(DataError, match=r"are not those that were sharded.*Restore it") as refused:
            pairs.check(row, pairs.image_bytes(row + 1))
        assert str(refused.value).startswith(f"{tar}: the bytes of {key} are not")
        assert (refused.value.values["path"], refused.value.values["key"]) == (tar, key)
        assert tar.is_file()


def test_captions_in_another_order_are_refused(own_world: Path) -> None:
    path = own_world / "train" / "captions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    with pytest.raises(DataError, match="not in the order of their images"):
        Pairs(Split(own_world, "train"))


def test_writer__strings_of_several_blocks_follow_each_other(tmp_path: Path) -> None:
    blocks = [["ein Haus", "", "家"], [], ["🐈🐈", "b"], ["last"]]
    writer = Writer(tmp_path)
    for block in blocks:
        writer.strings("text", block)
    strings, expected = Strings(tmp_path / "text"), [text for block in blocks for text in block]
    assert len(strings) == len(expected)
    assert [strings[row] for row in range(len(expected))] == expected
