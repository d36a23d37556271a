"""Stanford Online Products' lists."""

from pathlib import Path

from cusa.pipeline import readers
from tests.pipeline.readers.counting import images, shard_counts


def test_read__the_stand_in_is_counted_and_sharded(shared: Path, tmp_path: Path) -> None:
    reading = readers.read("sop", shared / "data/standins/sop/Stanford_Online_Products")
    assert images(reading) == {"train": 144, "test": 156}
    assert not reading.drops
    assert len({record.label for record in reading.images}) == 25
    assert {record.role for record in reading.images} == {""}
    counts = shard_counts(reading, tmp_path)
    assert (counts["images_kept"], counts["images_dropped"]) == (300, 0)
