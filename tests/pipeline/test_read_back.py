"""Real data sets through `cusa shard`, read back with plain webdataset and counted against their own description."""

import gc
import hashlib
import json
from pathlib import Path

import pytest
import webdataset

from cusa.pipeline import readers, shard
from cusa.pipeline.config import ReadConfig, ShardConfig

SETS = {
    # layout, source, images and captions by split, classes
    "coco-mini": (
        "karpathy",
        "coco-mini/dataset_coco.json",
        {"train": (599, 2996), "val": (199, 995), "test": (200, 1001)},
        0,
    ),
    "cub-mini": ("cub", "cub-mini/CUB_200_2011", {"train": (282, 0), "test": (261, 0)}, 10),
    "sop": ("sop", "standins/sop/Stanford_Online_Products", {"train": (144, 0), "test": (156, 0)}, 25),
    "in-shop": ("in-shop", "standins/inshop", {"train": (144, 0), "test": (156, 0)}, 25),
    "inaturalist": ("inaturalist", "standins/inat2018", {"train": (144, 0), "test": (156, 0)}, 25),
}
"""Of `data/README.md`; CUB's classes 6-10 are its 261 test images there."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
@pytest.mark.parametrize("name", SETS)
def test_shards__webdataset_counts_what_the_data_set_has(tmp_path: Path, shared: Path, name: str) -> None:
    layout, source, splits, classes = SETS[name]
    reading = readers.read(layout, shared / "data" / source, None, ReadConfig(train_classes="1-5"))
    done = shard.run(ShardConfig(workers=1, max_images=100), reading=reading, out=tmp_path)
    assert done.counts["images_dropped"] == done.counts["captions_dropped"] == 0
    labels, keys = set[str](), set[str]()
    for split, (images, captions) in splits.items():
        tars = sorted(str(path) for path in (tmp_path / split).glob("*.tar"))
        assert len(tars) == -(-images // 100)
        seen = said = 0
        for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
            described = json.loads(sample["json"])
            data = next(sample[ext] for ext in ("jpg", "png", "webp") if ext in sample)
            assert hashlib.sha256(data).hexdigest() == described["sha256"]
            seen, said = seen + 1, said + len(described["captions"])
            labels.add(described["label"])
            keys.add(sample["__key__"])
        del sample
        gc.collect()
        assert (seen, said) == (images, captions), split
    assert len(labels - {""}) == classes
    assert len(keys) == sum(images for images, _ in splits.values()), "every key once"
