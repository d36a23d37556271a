"""Intervals over resampled images: equal to resampling written out, whatever the images' numbers of queries."""

import numpy as np
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.ranking import rank
from cusa.eval.tasks import intervals
from cusa.eval.tasks.metrics import Kind

CONFIG = EvalConfig(bootstrap=200, seed=5)


def _world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values of queries, some that do not count, and the image of each; images have one to seven queries."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(30), rng.integers(1, 8, 30))
    value = (rng.random(len(image)) < 0.4).astype(float)
    value[rng.random(len(image)) < 0.1] = np.nan
    order = rng.permutation(len(image))
    return value[order], image[order]


def test_by_image__sums_and_numbers_without_what_does_not_count() -> None:
    value, image = _world(0)
    sums, counts = intervals.by_image(value, image)
    for row in range(30):
        mine = [one for one, owner in zip(value.tolist(), image.tolist(), strict=True) if owner == row and one == one]
        assert (sums[row], counts[row]) == (sum(mine), len(mine))


@pytest.mark.parametrize("terms", [1, 3])
def test_of_sum__equals_resampled_images_written_out(terms: int) -> None:
    """A mean over the queries of the images that were drawn, an image that was drawn twice counted twice."""
    worlds = [_world(seed) for seed in range(terms)]
    rng = np.random.default_rng(CONFIG.seed)
    drawn_sums = []
    for _ in range(CONFIG.bootstrap):
        drawn = rng.integers(30, size=30)
        total = 0.0
        for value, image in worlds:
            queries = np.concatenate([value[image == one] for one in drawn])
            total += 100 * float(np.nanmean(queries))
        drawn_sums.append(total)
    expected = np.quantile(drawn_sums, [0.025, 0.975])
    got = intervals.of_sum(CONFIG, [intervals.by_image(*world) for world in worlds])
    assert got == pytest.approx(expected.tolist(), abs=1e-4)


def test_of_sum__where_every_query_is_a_hit_nothing_is_unsure() -> None:
    image = np.repeat(np.arange(4), [1, 5, 2, 9])
    assert intervals.of_sum(CONFIG, [intervals.by_image(np.ones(17), image)]) == [100.0, 100.0]
    assert intervals.of_sum(CONFIG, [intervals.by_image(np.full(17, np.nan), image)]) is None, "nothing counts"
    assert intervals.of_sum(EvalConfig(bootstrap=0), [intervals.by_image(np.ones(17), image)]) is None


@pytest.mark.parametrize("kind", ["pairs", "matches"])
@pytest.mark.parametrize(("prefix", "rsum"), [(False, False), (True, True)])
def test_of_rankings__each_mean_of_each_direction_and_their_sum(prefix: bool, rsum: bool, kind: Kind) -> None:
    """R@1 and R@5 of two directions by hand; the median rank is no mean and has no interval."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(12, 20)).astype(np.float32)
    right = [rng.choice(20, 2, replace=False) for _ in range(12)]
    one, other = rank([scores], right), rank([scores.T.copy()], [np.array([item % 12]) for item in range(20)])
    directions = {"image-to-text": one, "text-to-image": other}
    image_of = {"image-to-text": np.arange(12), "text-to-image": np.arange(20) % 12}
    if not prefix:
        directions = {"image-to-text": one}
    found = intervals.of_rankings(CONFIG, directions, image_of, (1, 5), prefix=prefix, rsum=rsum, kind=kind)
    terms = []
    for name, ranking in directions.items():
        start = f"{name}/" if prefix else ""
        for k in (1, 5):
            terms.append(intervals.by_image((ranking.rank <= k).astype(float), image_of[name]))
            assert found.pop(f"{start}r@{k}") == intervals.of_sum(CONFIG, terms[-1:])
        at_r = {"r_precision": ranking.r_precision, "map_at_r": ranking.average_precision}
        for metric, values in at_r.items() if kind == "matches" else ():
            expected = intervals.of_sum(CONFIG, [intervals.by_image(values, image_of[name])])
            assert found.pop(f"{start}{metric}") == expected
    if rsum:
        assert found.pop("rsum") == intervals.of_sum(CONFIG, terms)
    assert found == {}, "nothing else is a mean over queries"
