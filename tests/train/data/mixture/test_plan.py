"""The draws of several data sets, from a configuration and the splits."""

from pathlib import Path

import numpy as np

from cusa.manifests.samples import Split
from cusa.pipeline.config import ShardConfig
from cusa.train.config import TrainConfig
from cusa.train.data.mixture.plan import plan_draws
from cusa.train.data.training import TrainingMixture, TrainingSplit
from tests import worlds


def test_plan_draws__windows_are_of_pairs_and_hold_every_one(tmp_path: Path) -> None:
    config = ShardConfig(workers=1, max_images=4)
    splits = [
        Split(worlds.make_work(tmp_path / name, config=config, images=12, captions=captions), "train")
        for name, captions in (("a", 3), ("b", 2))
    ]
    mixture = TrainingMixture(tuple(TrainingSplit(one, {}) for one in splits), ("a", "b"), (None, None))
    draws = plan_draws(TrainConfig(batch=6, shuffle_window=1), mixture)
    assert draws.sizes == draws.epoch == (36, 24)
    rows = draws.at(np.arange(60), seed=0, epoch=0)
    assert sorted(rows.tolist()) == list(range(60)), "each pair once an epoch"
    for own, size in ((rows[rows < 36], 12), (rows[rows >= 36] - 36, 8)):
        tars = own // size
        assert (np.diff(tars) != 0).sum() == 2, "one tar after another"
