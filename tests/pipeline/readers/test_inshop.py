"""In-Shop's list: train, query and gallery."""

from collections import Counter
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.samples import Split
from cusa.pipeline import readers
from tests.pipeline.readers.counting import images, shard_counts


def test_read__the_stand_in_is_counted_and_sharded(shared: Path, tmp_path: Path) -> None:
    reading = readers.read("in-shop", shared / "data/standins/inshop")
    assert images(reading) == {"train": 144, "test": 156}
    assert not reading.drops
    assert len({record.label for record in reading.images}) == 25
    assert {record.role for record in reading.images} == {"", "query", "gallery"}
    counts = shard_counts(reading, tmp_path)
    assert (counts["images_kept"], counts["images_dropped"]) == (300, 0)
    assert Counter(Split(tmp_path, "test").samples["role"].to_pylist()) == {"query": 78, "gallery": 78}


def test_read__item_split_and_role_of_every_line(tmp_path: Path) -> None:
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Img").mkdir()
    path = tmp_path / "Eval/list_eval_partition.txt"
    head = "6\nimage_name item_id evaluation_status\n"
    lines = [
        "img/WOMEN/Dresses/id_01/02_1_front.jpg id_01 train",
        "img/MEN/Denim/id_02/01_1_front.jpg id_02 query",
        "",
        "img/MEN/Denim/id_02/01_2_side.jpg id_02 gallery",
        "img/MEN/Denim/id_02/01_3_back.jpg id_02 val",
        "img/MEN/Denim/id_02/01_3_back.jpg id_02",
    ]
    path.write_text(head + "\n".join(lines) + "\n")
    reading = readers.read("in-shop", tmp_path)
    assert [(one.key, one.split, one.label, one.role) for one in reading.images] == [
        (keys.image_key("in-shop", "WOMEN/Dresses/id_01/02_1_front"), "train", "id_01", ""),
        (keys.image_key("in-shop", "MEN/Denim/id_02/01_1_front"), "test", "id_02", "query"),
        (keys.image_key("in-shop", "MEN/Denim/id_02/01_2_side"), "test", "id_02", "gallery"),
    ]
    assert [one.path for one in reading.images] == [tmp_path / "Img" / one.source for one in reading.images]
    assert [(drop.source, drop.reason) for drop in reading.drops] == [
        ("list_eval_partition.txt:7", "bad-row"),
        ("list_eval_partition.txt:8", "bad-row"),
    ]
    assert "status 'val' is none of train, query, gallery" in reading.drops[0].detail
    alone = readers.read("in-shop", path, tmp_path / "Img")
    assert alone.images == reading.images
    path.write_text("\n".join(["1", "image item status", *lines]))
    with pytest.raises(DataError, match="is no In-Shop list"):
        readers.read("in-shop", tmp_path)
