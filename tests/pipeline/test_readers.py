"""What every layout has in common: errors that explain, a first line that says what is read."""

import re
from pathlib import Path

import pytest

from cusa.errors import ConfigError, DataError
from cusa.pipeline import readers


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        ("coco", "no captions_|no COCO"),
        ("release", "no JSON lists"),
        ("flickr", "no file|does not exist"),
        ("flickr8k", "neither Flickr8k.token.txt nor dataset_flickr8k.json"),
        ("table", r"is a folder, and of files ending in \.csv, .* it has none"),
        ("folder", "holds no image"),
        ("webdataset", "no tar"),
        ("cub", r"images\.txt does not exist"),
        ("sop", r"Ebay_train\.txt does not exist"),
        ("in-shop", "does not exist"),
        ("inaturalist", "holds no list"),
        ("sts", "holds no STS"),
        ("regions", "holds no <split>_caps"),
        ("karpathy", "is a folder, and .* it has none"),
    ],
)
def test_read__an_empty_folder_is_explained_by_every_layout(tmp_path: Path, layout: str, match: str) -> None:
    assert set(readers.READERS) >= {layout}
    with pytest.raises(DataError, match=match):
        readers.read(layout, tmp_path)


def test_read__wrong_files_and_names_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no layout 'karpaty'.*Did you mean 'karpathy'"):
        readers.read("karpaty", tmp_path, tmp_path)
    with pytest.raises(DataError, match="--images"):
        readers.read("karpathy", tmp_path / "x.json", tmp_path / "nowhere")
    with pytest.raises(DataError, match="does not exist"):
        readers.read("karpathy", tmp_path / "x.json", tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="no Karpathy file"):
        readers.read("karpathy", tmp_path / "list.json", tmp_path)


def test_first_line_of_each_reader_says_what_it_reads() -> None:
    for name, reader in readers.READERS.items():
        assert re.match(r"Read .*[.:]", (reader.__doc__ or "").strip().split("\n")[0]), name


@pytest.mark.parametrize("beside", [True, False])
def test_read__a_folder_with_one_table_and_images_beside_it(tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "mine"
    images = folder / "images" if beside else folder
    images.mkdir(parents=True)
    (images / "a.jpg").write_bytes(b"a")
    (folder / "captions.csv").write_text("filename,comment\na.jpg,a child\n")
    if not beside:
        (folder / "images").mkdir()  # of no use
    reading = readers.read("table", folder)
    assert [image.path for image in reading.images] == [images / "a.jpg"]
    assert any("captions.csv was read" in note for note in reading.notes)
    assert any("--images names another" in note for note in reading.notes) is beside
    assert any("image from 'filename'" in note for note in reading.notes)
    (folder / "more.tsv").write_text("")
    with pytest.raises(DataError, match=r"it has captions\.csv, more\.tsv\. Name the annotation file"):
        readers.read("table", folder)
