"""Verdicts as ECCV Caption's files: read back by our readers, and by the package itself where ids are numbers."""

import json
import warnings
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements import coco_matches, pair_judgements
from cusa.manifests.judgements.truth import read_truth
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.audit import export_eccv
from cusa.pipeline.config import ShardConfig
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work

SAID = {(0, 4): "duplicate", (3, 0): "match", (1, 9): "no match", (2, 8): "related"}


def _judge(split: Split, said: dict[tuple[int, int], str]) -> None:
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(said.items()):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))


def test_run__keys_come_back_as_a_truth(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=6, captions=2, splits=("train",)), "train")
    with pytest.raises(DataError, match="Nobody has judged"):
        export_eccv.run(split, tmp_path / "out")
    _judge(split, SAID)
    done = export_eccv.run(split, tmp_path / "out")
    assert done.ids == "keys"
    images, captions = split.image_keys, split.caption_keys
    to_captions = json.loads(done.files[0].read_text())
    # Images 0 and 2 are one; caption 0 is true of image 3. Queries are those that somebody judged.
    both = [captions[row] for row in (0, 1, 4, 5)]
    assert to_captions == {
        images[0]: both,
        images[1]: [captions[2], captions[3]],
        images[2]: both,
        images[3]: [captions[0], captions[6], captions[7]],
    }
    to_images = json.loads(done.files[1].read_text())
    assert to_images[captions[0]] == [images[0], images[2], images[3]]
    assert set(to_images) == {captions[row] for row in (0, 4, 8, 9)}
    truth = read_truth(split, tmp_path / "out")
    assert not truth.complete
    known = set(zip(truth.images.tolist(), truth.captions.tolist(), strict=True))
    expected = {tuple(pair) for pair in pair_judgements.true_pairs(split, pair_judgements.read(split)).tolist()}
    assert known <= expected
    assert {(0, 4), (2, 0), (3, 0)} <= known
    with pytest.raises(DataError, match="layout"):
        coco_matches.read(done.files[0])


def test_run__cocos_ids_are_read_by_the_package(shared: Path, tmp_path: Path) -> None:
    coco = shared / "data/coco-mini"
    reading = readers.read("karpathy", coco / "dataset_coco.json", coco)
    test = readers.Reading("coco", [r for r in reading.images if r.split == "test"], reading.files)
    shard.run(ShardConfig(workers=1), reading=test, out=tmp_path / "work")
    split = Split(tmp_path / "work", "test")
    _judge(split, {(image, 5 * image + 7): "match" for image in range(40)})
    done = export_eccv.run(split, tmp_path / "out")
    assert done.ids == "numbers"
    ours = [coco_matches.read(path) for path in done.files]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from eccv_caption import Metrics

        metrics = Metrics()
        metrics.set_eccv_gts(*map(str, done.files))
    assert {int(query): list(map(int, answers)) for query, answers in metrics.eccv_gts["i2t"].items()} == ours[0]
    assert {int(query): list(map(int, answers)) for query, answers in metrics.eccv_gts["t2i"].items()} == ours[1]
    number = int(split.image_keys[3].rpartition("/")[2])
    assert int(split.captions["caption_id"][22].as_py()) in ours[0][number]
    assert len(ours[0]) == 40
