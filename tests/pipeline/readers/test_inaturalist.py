"""iNaturalist's lists."""

from pathlib import Path

from cusa.pipeline import readers
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
