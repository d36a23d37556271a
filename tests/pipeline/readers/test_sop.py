"""Stanford Online Products' lists."""

from pathlib import Path

from cusa.manifests import keys
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from tests.pipeline.readers.counting import images, shard_counts


def test_read__the_stand_in_is_counted_and_sharded(shared: Path, tmp_path: Path) -> None:
    reading = readers.read("sop", shared / "data/standins/sop/Stanford_Online_Products")
    assert images(reading) == {"train": 144, "test": 156}
    assert not reading.drops
    assert len({record.label for record in reading.images}) == 25
    assert {record.role for record in reading.images} == {""}
    counts = shard_counts(reading, tmp_path)
    assert (counts["images_kept"], counts["images_dropped"]) == (300, 0)


def test_read__the_product_is_the_label_and_equal_names_have_other_keys(tmp_path: Path) -> None:
    head = "image_id class_id super_class_id path\n"
    (tmp_path / "Ebay_train.txt").write_text(
        f"{head}1 11 1 bicycle_final/1_0.JPG\n2 11 1 bicycle_final/1 1.JPG\n\n3 12 2 chair_final/1_0.JPG\n4 13 2\n"
    )
    (tmp_path / "Ebay_test.txt").write_text(f"{head}5 14 2 chair_final/2_0.JPG\n6 14 2 ../2_1.JPG\n")
    reading = readers.read("sop", tmp_path)
    rows = [(one.key, one.split, one.label, one.source, one.role, one.captions) for one in reading.images]
    assert rows == [
        ("sop/1_0", "train", "11", "bicycle_final/1_0.JPG", "", ()),
        (keys.image_key("sop", "1 1"), "train", "11", "bicycle_final/1 1.JPG", "", ()),
        ("sop/1_0", "train", "12", "chair_final/1_0.JPG", "", ()),
        ("sop/2_0", "test", "14", "chair_final/2_0.JPG", "", ()),
    ]
    assert [one.path for one in reading.images] == [tmp_path / one.source for one in reading.images]
    others = [one.other_key for one in reading.images]
    assert len(set(others)) == 4
    assert all(other.startswith("sop/") for other in others)
    assert [(drop.split, drop.source, drop.kind, drop.reason) for drop in reading.drops] == [
        ("train", "Ebay_train.txt:6", "image", "bad-row"),
        ("test", "Ebay_test.txt:3", "image", "bad-row"),
    ]
    renamed = readers.read("sop", tmp_path, tmp_path.parent, ReadConfig(dataset="shop"))
    assert renamed.images[0].key == "shop/1_0"
    assert renamed.images[0].path == tmp_path.parent / "bicycle_final/1_0.JPG"
    before = reading.files
    (tmp_path / "Ebay_test.txt").write_text(head)
    assert readers.read("sop", tmp_path).files != before, "either list makes it another source"
