"""CUB's tables: classes divide and name."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests.records import Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import other_key
from tests.pipeline.readers.counting import images


def test_read__classes_divide_and_name(shared: Path) -> None:
    folder = shared / "data/cub-mini/CUB_200_2011"
    reading = readers.read("cub", folder, None, ReadConfig(train_classes="1-5"))
    assert not reading.drops
    assert images(reading) == {"train": 282, "test": 261}
    assert len({record.label for record in reading.images}) == 10
    assert "001.Black_footed_Albatross" in {record.label for record in reading.images}
    with pytest.raises(ConfigError, match=r"--train-classes '5'.*1-100"):
        readers.read("cub", folder, None, ReadConfig(train_classes="5"))


@pytest.mark.parametrize("below", [True, False])
def test_read__every_listed_image_is_kept_or_dropped(tmp_path: Path, below: bool) -> None:
    tables = {
        "images.txt": "1 001.A/a 1.jpg\n2 002.B/b.jpg\n3 003.C/c.jpg\n4 ../d.jpg\n5 003.C/e.jpg\n6 003.C/f.jpg\n\n",
        "image_class_labels.txt": "1 1\n2 2\n3 3\n4 1\n5 x\n",
        "classes.txt": "1 001.A\n2 002.B name\n",
    }
    for name, words in tables.items():
        (tmp_path / name).write_text(words)
    folder = tmp_path / "images" if below else tmp_path
    folder.mkdir(exist_ok=True)
    reading = readers.read("cub", tmp_path, tmp_path, ReadConfig(train_classes="2-2"))
    assert (reading.dataset, reading.files) == ("cub", {name: store.sha256_file(tmp_path / name) for name in tables})
    kept = [("001.A/a 1.jpg", "test", "001.A"), ("002.B/b.jpg", "train", "002.B name"), ("003.C/c.jpg", "test", "3")]
    assert [image._replace(key="") for image in reading.images] == [
        ImageRecord("", split, folder / path, path, (), label, other_key=other_key("cub", path))
        for path, split, label in kept
    ]
    assert [image.key for image in reading.images][1:] == ["cub/b", "cub/c"]
    assert [(drop.source, drop.kind, drop.reason) for drop in reading.drops] == [
        ("images.txt 4", "image", "bad-row"),
        ("images.txt 5", "image", "bad-row"),
        ("images.txt 6", "image", "bad-row"),
    ]
    assert [drop.detail[:20] for drop in reading.drops] == [
        "the path '../d.jpg' ",
        "invalid literal for ",
        "no field '6'",
    ]
    assert isinstance(reading.drops[0], Drop)
    assert readers.read("cub", tmp_path, tmp_path, ReadConfig(dataset="birds")).images[1].key == "birds/b"
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt does not exist"):
        readers.read("cub", tmp_path, tmp_path)


@pytest.mark.parametrize("words", ["5", "1-", "-5", "a-5", "1-b", "1 to 5", ""])
def test_read__what_is_no_range_of_classes_is_refused(tmp_path: Path, words: str) -> None:
    for name in ("images.txt", "image_class_labels.txt", "classes.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="is no range. One looks like 1-100"):
        readers.read("cub", tmp_path, tmp_path, ReadConfig(train_classes=words))
