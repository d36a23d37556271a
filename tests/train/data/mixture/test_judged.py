"""Verdicts and own pairs' weights of several sets, against what each set says alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from cusa.errors import ConfigError
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.samples import Split
from cusa.train.config import LossConfig
from cusa.train.data.doubts import read_pair_weights
from cusa.train.data.mixture.joined import JoinedPairs
from cusa.train.data.mixture.judged import join_judged, read_opinions
from cusa.train.data.pairs import Pairs
from cusa.train.data.training import TrainingMixture, TrainingSplit, shares
from tests import worlds
from tests.train.data.test_doubts import _write as write_p_wrong
from tests.train.data.test_judged import judge

CPU = torch.device("cpu")
IMAGES, CAPTIONS = 6, 3


@pytest.fixture
def three(tmp_path: Path) -> list[Split]:
    """A world, one of other pictures, and one whose pictures are those of the first, byte for byte."""
    return [
        Split(
            worlds.make_work(tmp_path / name, images=IMAGES, captions=CAPTIONS, splits=("train",), seed=seed), "train"
        )
        for name, seed in (("a", 0), ("b", 1), ("c", 0))
    ]


def _join(splits: list[Split]) -> JoinedPairs:
    return JoinedPairs([Pairs(split) for split in splits], ["a", "b", "c"])


def test_join_judged__rows_of_every_set_behind_those_of_the_sets_before(three: list[Split]) -> None:
    # Image 4 of b is a copy of its image 1; what is said of it holds for both. Of a nobody says anything.
    judge(three[1], {(4, 3): "duplicate", (4, 0): "match", (1, 6): "related", (2, 9): "match"})
    judge(three[2], {(0, 4): "match", (5, 1): "related"}, start=20)
    judged, digests = join_judged(three, ["a", "b", "c"], _join(three), CPU)
    b, c = IMAGES, 2 * IMAGES
    expected = [*range(IMAGES), b, b + 1, b + 2, b + 3, b + 1, b + 5, *range(IMAGES)]
    assert judged.first_N.tolist() == expected, "c's pictures are a's"
    rows_b, rows_c = IMAGES * CAPTIONS, 2 * IMAGES * CAPTIONS
    assert sorted(map(tuple, judged.positive.tolist())) == sorted(
        [(expected[c + 0], rows_c + 4), (b + 1, rows_b + 0), (b + 2, rows_b + 9)]
    )
    assert sorted(map(tuple, judged.ignored.tolist())) == sorted([(b + 1, rows_b + 6), (expected[c + 5], rows_c + 1)])
    assert [note.partition(":")[0] for note in judged.notes] == ["b", "c"]
    assert len(set(digests)) == 3


def test_join_judged__a_match_in_one_set_outweighs_what_is_unclear_of_its_copy_in_another(three: list[Split]) -> None:
    judge(three[0], {(2, 0): "match"})
    judge(three[2], {(2, 0): "related"})
    judged, _ = join_judged(
        [three[0], three[2]], ["a", "c"], JoinedPairs([Pairs(three[0]), Pairs(three[2])], ["a", "c"]), CPU
    )
    # The captions are two rows, of one text each: only the row that people called a match is one.
    assert judged.positive.tolist() == [[2, 0]]
    assert judged.ignored.tolist() == [[2, IMAGES * CAPTIONS]]


def test_join_judged__without_any_verdict_is_refused_and_names_the_folders(three: list[Split]) -> None:
    folders = " or ".join(str(split.folder) for split in three)
    with pytest.raises(ConfigError, match=f"nobody has judged a pair of {folders}. Run"):
        join_judged(three, ["a", "b", "c"], _join(three), CPU)


def test_read_opinions__weights_of_every_set_in_the_order_of_its_captions(three: list[Split]) -> None:
    rng = np.random.default_rng(0)
    p_wrong = [rng.random(split.num_captions).astype(np.float32) for split in three]
    for split, values in zip(three, p_wrong, strict=True):
        write_p_wrong(split, values)
    calibration: BatchCalibration | None = None
    training = TrainingMixture(
        tuple(TrainingSplit(split, {}, {}, calibration) for split in three), ("a", "b", "c"), (1.0, 2.0, 1.0)
    )
    loss = LossConfig(alpha=0, beta=0, pair_weights="audit")
    opinions = read_opinions(loss, training, _join(three), CPU)
    assert opinions.judged is None
    assert opinions.pair_weights is not None
    np.testing.assert_allclose(opinions.pair_weights, 1 - np.concatenate(p_wrong), rtol=1e-6)
    assert opinions.digests == {
        f"the audit of the pairs of data set {number}": read_pair_weights(split, CPU)[1]
        for number, split in enumerate(three, 1)
    }
    assert [note[:3] for note in opinions.notes] == ["a: ", "b: ", "c: "]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([3, 1], ["3/4", "1/4"]),
        ([6.0, 2.0], ["3/4", "1/4"]),
        ([0.3, 0.1], ["3/4", "1/4"]),
        ([1, 1, 1], ["1/3", "1/3", "1/3"]),
        ([2.5], ["1"]),
        ([None, None], [None, None]),
    ],
)
def test_shares__only_the_ratio_of_weights_counts(weights: list[float | None], expected: list[str | None]) -> None:
    assert shares(weights) == expected


def test_shares__sum_to_one_whatever_the_order() -> None:
    for weights in itertools.permutations([0.1, 0.7, 3.0]):
        assert sum(int(a) / int(b) for a, b in (str(one).split("/") for one in shares(weights))) == pytest.approx(1)
