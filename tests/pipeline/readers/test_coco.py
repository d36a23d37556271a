"""COCO's own files: their documented counts, and the same captions as Karpathy's file."""

from pathlib import Path

from cusa.pipeline import readers
from tests.pipeline.readers.counting import captions, images


def test_read__annotation_files_have_the_documented_counts_and_agree_with_karpathy(shared: Path) -> None:
    folder = shared / "data/coco-mini"
    reading = readers.read("coco", folder / "annotations", folder)
    assert not reading.drops
    assert images(reading) == {"train": 600, "val": 402}
    assert captions(reading) == {"train": 3000, "val": 2003}
    assert all(record.path is not None and record.path.is_file() for record in reading.images)
    # The same captions under the same keys as in Karpathy's file, which was made of them.
    other = readers.read("karpathy", folder / "dataset_coco_all.json", folder)
    texts = {record.key: sorted(c.text for c in record.captions) for record in reading.images}
    assert texts == {record.key: sorted(c.text for c in record.captions) for record in other.images}
