"""In-Shop's list: train, query and gallery."""

from collections import Counter
from pathlib import Path

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
