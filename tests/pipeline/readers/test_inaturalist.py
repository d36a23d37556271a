"""iNaturalist's lists."""

from pathlib import Path

from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import images, shard_counts


def test_read__the_stand_in_is_counted_and_sharded(shared: Path, tmp_path: Path) -> None:
    reading = readers.read("inaturalist", shared / "data/standins/inat2018")
    assert images(reading) == {"train": 144, "test": 156}
    assert not reading.drops
    assert len({record.label for record in reading.images}) == 25
    assert {record.role for record in reading.images} == {""}
    counts = shard_counts(reading, tmp_path)
    assert (counts["images_kept"], counts["images_dropped"]) == (300, 0)


def test_read__the_list_with_categories(shared: Path) -> None:
    folder = shared / "data/layouts/inaturalist-2018"
    reading = readers.read("inaturalist", folder / "iNaturalist18_val.txt", folder)
    assert images(reading) == {"val": 24_426}
    assert len({record.label for record in reading.images}) == 8_142
    assert all(record.label == Path(record.source).parent.name for record in reading.images)


def test_read__the_category_is_the_folder_or_the_second_column(tmp_path: Path) -> None:
    (tmp_path / "Inat_dataset_splits").mkdir()
    place = "train_val2018"
    lists = {
        "Inaturalist_train_set1.txt": f"{place}/Aves/2761/0568.jpg\n\n{place}/Aves/2762/0568.jpg\n0568.jpg\n",
        "Inaturalist_test_set1.txt": "train_val2018/Insecta/3001/99.jpg 7\n",
        "Inaturalist_test_set2.txt": "train_val2018/Insecta/3001/100.jpg\n",
    }
    for name, lines in lists.items():
        (tmp_path / "Inat_dataset_splits" / name).write_text(lines)
    reading = readers.read("inaturalist", tmp_path)
    assert [(one.key, one.split, one.label) for one in reading.images] == [
        ("inaturalist-2018/99", "test", "7"),
        ("inaturalist-2018/0568", "train", "2761"),
        ("inaturalist-2018/0568", "train", "2762"),
    ]
    assert [one.path for one in reading.images] == [tmp_path / one.source for one in reading.images]
    assert len({one.other_key for one in reading.images}) == 3
    assert [(drop.split, drop.source) for drop in reading.drops] == [("train", "Inaturalist_train_set1.txt:4")]
    (tmp_path / "mine.txt").write_text("a/5/1.jpg\n")
    one = readers.read("inaturalist", tmp_path / "mine.txt", config=ReadConfig(split="val", dataset="mine"))
    assert [(row.key, row.split, row.label) for row in one.images] == [("mine/1", "val", "5")]
