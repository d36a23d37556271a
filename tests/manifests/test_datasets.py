"""Packaged data sets: valid manifests with the documented counts, and impossible ones explained."""

from pathlib import Path

import pytest

from cusa.errors import ConfigError
from cusa.manifests import datasets
from cusa.pipeline.readers import READERS


@pytest.mark.parametrize("name", datasets.names())
def test_load__are_valid_and_name_a_reader(name: str) -> None:
    manifest = datasets.load(name)
    assert manifest.name == name
    assert manifest.licence
    assert manifest.reader in {*READERS, ""}
    assert all(url.startswith(("http://", "https://")) for file in manifest.files for url in file.urls)
    assert len({file.path for file in manifest.files}) == len(manifest.files)


def test_load__counts_are_the_documented_ones() -> None:
    counts = {name: {s: c.images for s, c in datasets.load(name).counts.items()} for name in datasets.names()}
    assert counts["coco"] == {"train": 113_287, "val": 5_000, "test": 5_000}
    assert sum(counts["sop"].values()) == 120_053  # type: ignore[arg-type]
    assert sum(counts["in-shop"].values()) == 52_712  # type: ignore[arg-type]
    assert counts["inaturalist-2018"] == {"train": 325_846, "test": 136_093}
    assert counts["flickr8k"] == {"train": 6_000, "val": 1_000, "test": 1_000}
    assert counts["cub"] == {"train": 5_864, "test": 5_924}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 1", "no TOML|name"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = '../x', urls = ['http://x']}]", "leaves the folder"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = 'x'}]", "urls or by_hand"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = []\ncolour = 'red'", "colour"),
        ("name = ", "no TOML"),
    ],
)
def test_load__an_impossible_one_is_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        datasets.load(str(tmp_path / "m.toml"))
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        datasets.load("cocoo")
