"""Precomputed region features."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.samples import Split
from cusa.pipeline import readers
from tests.pipeline.readers.counting import shard_counts


def _write_precomp(folder: Path, split: str, images: int, *, repeat: bool = False, ids: bool = False) -> np.ndarray:
    rng = np.random.default_rng(images)
    array = rng.normal(size=(images, 36, 2048)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", np.repeat(array, 5, axis=0) if repeat else array)
    lines = [f"caption {i % 5} of image {i // 5}" for i in range(images * 5)]
    (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    if ids:
        (folder / f"{split}_ids.txt").write_text("\n".join(str(1000 + i) for i in range(images)) + "\n")
    return array


@pytest.mark.parametrize("repeat", [False, True])
def test_read__each_image_is_an_npy_member(tmp_path: Path, repeat: bool) -> None:
    folder = tmp_path / "f30k_precomp"
    train = _write_precomp(folder, "train", 4, ids=True)
    dev = _write_precomp(folder, "dev", 3, repeat=repeat)
    dev[1, 3, 7] = np.nan
    np.save(folder / "dev_ims.npy", np.repeat(dev, 5, axis=0) if repeat else dev)
    reading = readers.read("regions", folder)
    counts = shard_counts(reading, tmp_path / "work")
    assert (counts["images_kept"], counts["images_dropped"], counts["captions_dropped"]) == (6, 1, 5)
    split = Split(tmp_path / "work", "train")
    assert split.samples.select(["ext", "width", "height"]).to_pylist()[0] == {
        "ext": "npy",
        "width": 2048,
        "height": 36,
    }
    for row in range(4):
        assert np.array_equal(np.load(io.BytesIO(split.image_bytes(row))), train[row])
        assert split.texts[row * 5] == f"caption 0 of image {row}"
    val = Split(tmp_path / "work", "val")
    assert [np.load(io.BytesIO(val.image_bytes(row))).tolist() for row in range(2)] == [
        dev[0].tolist(),
        dev[2].tolist(),
    ]
    (drop,) = (d for d in pq.read_table(tmp_path / "work/val/drops.parquet").to_pylist() if d["kind"] == "image")
    assert (drop["reason"], drop["source"]) == ("not-finite", f"dev_ims.npy[{5 if repeat else 1}]")
    # And the work folder read again, as `cusa shard subset` does.
    again = readers.read_subset(tmp_path / "work", [split.image_keys[2], "f30k_precomp/nowhere"])
    counts = shard_counts(again, tmp_path / "part")
    assert (counts["images_kept"], counts["images_dropped"]) == (1, 1)
    part = Split(tmp_path / "part", "train")
    assert part.image_bytes(0) == split.image_bytes(2)


def test_read__what_does_not_fit_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "precomp"
    _write_precomp(folder, "train", 2)
    with (folder / "train_caps.txt").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match="2 rows and train_caps.txt has 11 lines"):
        readers.read("regions", folder)
    np.save(folder / "train_ims.npy", np.zeros((2, 36, 2048)))
    with pytest.raises(DataError, match=r"float64.*float32"):
        readers.read("regions", folder)
    (folder / "train_ims.npy").unlink()
    with pytest.raises(DataError, match=r"train_ims\.npy does not exist"):
        readers.read("regions", folder)
