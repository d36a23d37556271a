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
    assert counts["flickr30k"] == {"train": 29_000, "val": 1_014, "test": 1_000}
    assert counts["coco_precomp"] == {"train": 113_287, "testall": 5_000}
    assert counts["f30k_precomp"] == {"train": 29_000, "test": 1_000}
    assert counts["sop"] == {"train": 59_551, "test": 60_502}
    assert counts["in-shop"] == {"train": 25_882, "test": 26_830}
    years = {"sts12": 3_108, "sts13": 1_500, "sts14": 3_750, "sts15": 3_000, "sts16": 1_186}
    parts = {"stsb-train": 5_749, "stsb-dev": 1_500, "stsb-test": 1_379}
    sick = {"sick-train": 4_500, "sick-trial": 500, "sick-test": 4_927}
    assert counts["sts"] == {**years, **parts, **sick}
    every = [(name, split, c) for name in datasets.names() for split, c in datasets.load(name).counts.items()]
    labels = {(name, split): c.labels for name, split, c in every if c.labels is not None}
    assert labels == {
        **{("cub", "train"): 100, ("cub", "test"): 100, ("sop", "train"): 11_318, ("sop", "test"): 11_316},
        **{("in-shop", "train"): 3_997, ("in-shop", "test"): 3_985},
        **{("inaturalist-2018", "train"): 5_690, ("inaturalist-2018", "test"): 2_452},
    }
    captions = {(name, split): c.captions for name, split, c in every if c.captions is not None}
    five = ("flickr8k", "coco_precomp", "f30k_precomp")
    assert captions == {(name, split): 5 * c.images for name, split, c in every if name in five and c.images}
    assert counts["coco"] == {"train": 113_287, "val": 5_000, "test": 5_000}
    assert sum(counts["sop"].values()) == 120_053  # type: ignore[arg-type]
    assert sum(counts["in-shop"].values()) == 52_712  # type: ignore[arg-type]
    assert counts["inaturalist-2018"] == {"train": 325_846, "test": 136_093}
    assert counts["flickr8k"] == {"train": 6_000, "val": 1_000, "test": 1_000}
    assert counts["cub"] == {"train": 5_864, "test": 5_924}


_HEAD = "name = 'x'\ntitle = 't'\nlicence = 'l'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 1", "no TOML|name"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = '../x', urls = ['http://x']}]", "leaves the folder"),
        ("name = 'x'\ntitle = 't'\nlicence = 'l'\nfiles = [{path = 'x'}]", "urls or by_hand"),
        (f"{_HEAD}files = [{{path = 'x', urls = ['http://x'], by_hand = 'ask'}}]", "urls or by_hand"),
        (
            f"{_HEAD}files = [{{path = '/x', urls = ['http://x']}}]",
            r"m.toml: files.0: the path '/x' leaves the folder\.$",
        ),
        (f"{_HEAD}files = [{{path = '', urls = ['http://x']}}]", "the path '' leaves the folder"),
        (f"{_HEAD}files = [{{path = 'x', unpack = 'a/../..', urls = ['http://x']}}]", "path 'a/../..' leaves"),
        (f"{_HEAD}files = [{{path = 'x', bytes = -1, urls = ['http://x']}}]", "files.0.bytes"),
        (f"{_HEAD}files = [{{path = 'x', sha256 = 'AB', urls = ['http://x']}}]", "files.0.sha256"),
        (f"{_HEAD}files = [{{path = 'x', md5 = '{'0' * 31}', urls = ['http://x']}}]", "files.0.md5"),
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


def test_load__a_manifest_of_one_s_own_with_all_that_it_says(tmp_path: Path) -> None:
    digests = f"sha256 = '{'a' * 64}', md5 = '{'b' * 32}', bytes = 0"
    files = f"files = [{{path = 'x.zip', urls = ['http://x', 'http://y'], unpack = '.', {digests}}}]\n"
    (tmp_path / "m.toml").write_text(f"{_HEAD}{files}[counts.test]\nimages = 3\n[counts.val]\n")
    manifest = datasets.load(str(tmp_path / "m.toml"))
    (file,) = manifest.files
    assert (file.path, file.urls, file.unpack, file.bytes) == ("x.zip", ("http://x", "http://y"), ".", 0)
    assert (file.sha256, file.md5, file.by_hand) == ("a" * 64, "b" * 32, "")
    assert (manifest.counts["test"].images, manifest.counts["test"].captions) == (3, None)
    assert manifest.counts["val"] == datasets.Counts()
    with pytest.raises(ConfigError, match=r"There is no manifest .*none\.toml"):
        datasets.load(str(tmp_path / "none.toml"))


def test_official_images__of_the_packaged_manifests() -> None:
    assert datasets.official_images("flickr8k", "test") == 1_000
    assert datasets.official_images("coco", "train") == 113_287
    assert datasets.official_images("coco", "none") is None
    assert datasets.official_images("nobody-knows", "test") is None
    assert all("/" not in name and name == name.lower() for name in datasets.names())
    assert datasets.names() == sorted(datasets.names())
