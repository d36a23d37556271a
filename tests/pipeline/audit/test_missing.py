"""Missing positives: strata, the estimate's interval, and the R@1 ceiling against simulation."""

import numpy as np
import pytest
from scipy.stats import poisson

from cusa.pipeline.audit import missing


def test_ceiling__is_what_drawing_says() -> None:
    rng = np.random.default_rng(0)
    query = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3])
    p = np.array([0.9, 0.5, 0.1, 1.0, 0.3, 0.2, 0.2, 0.7, 0.05])
    own = np.array([5.0, 1.0, 2.0, 1.0, 0.0])
    drawn = np.zeros(4)
    for _ in range(40_000):
        further = np.bincount(query, rng.random(len(p)) < p, minlength=5)
        drawn += own[:4] / (own[:4] + further[:4])
    assert missing.ceiling(query, p, own) == pytest.approx(float(drawn.mean()) / 40_000, abs=3e-3)
    certain = missing.ceiling(np.array([0, 0, 1]), np.ones(3), np.array([1.0, 1.0]))
    assert certain == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert missing.ceiling(np.zeros(0, int), np.zeros(0), np.array([5.0])) == pytest.approx(1)


def test_ceiling__further_matches_elsewhere_count() -> None:
    rng = np.random.default_rng(1)
    drawn = (1 / (1 + rng.poisson(2.5, 200_000))).mean()
    assert missing.ceiling(np.zeros(0, int), np.zeros(0), np.ones(3), elsewhere=2.5) == pytest.approx(drawn, abs=3e-3)


def test_estimate__the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    sizes, rates = np.array([50_000, 4000, 900, 300]), np.array([0.0005, 0.05, 0.4, 0.9])
    judged = np.array([400, 200, 150, 100])
    inside, totals = 0, []
    for seed in range(100):
        true = rng.binomial(sizes, rates)
        matches = rng.hypergeometric(true, sizes - true, judged)
        estimated = missing.estimate(sizes, judged, matches, seed=seed)
        inside += estimated.low <= true.sum() <= estimated.high
        totals.append(estimated.total - true.sum())
    assert 0.90 <= inside / 100 <= 1.0
    assert abs(np.mean(totals)) < 40, "of about 855"


def test_estimate__strata_that_were_hardly_judged_are_left_out() -> None:
    estimated = missing.estimate(np.array([10**6, 100]), np.array([2, 50]), np.array([1, 25]))
    assert 40 < estimated.total < 60
    assert estimated.rates[0, 0] == 0
    whole = missing.estimate(np.array([3]), np.array([3]), np.array([2]))
    assert (whole.low, whole.total, whole.high) == (2, 2, 2), "all judged: nothing is left to guess"


@pytest.mark.parametrize("calibrated", [True, False])
def test_draw__pairs_are_open_different_and_of_their_stratum(calibrated: bool) -> None:
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(40), 3)
    codes = np.unique(rng.integers(0, 40 * 120, 600))
    codes = codes[owner[codes % 120] != codes // 120]
    p = rng.random(len(codes)) if calibrated else np.full(len(codes), np.nan)
    cut = missing.strata(p, rng.random(len(codes)), 40 * 120 - 120)
    assert cut.sizes.sum() == 40 * 120 - 120
    wanted = missing.allocate(cut, p, 100)
    assert (wanted <= cut.sizes).all()
    drawn, which = missing.draw(cut, wanted, codes, owner=owner, num_images=40, seed=3)
    assert np.bincount(which, minlength=len(cut.sizes)).tolist() == wanted.tolist()
    assert len(set(drawn.tolist())) == len(drawn)
    assert (owner[drawn % 120] != drawn // 120).all()
    of = dict(zip(codes.tolist(), cut.of_candidates.tolist(), strict=True))
    assert [of.get(code, 0) for code in drawn.tolist()] == which.tolist()
    again, _ = missing.draw(cut, wanted, codes, owner=owner, num_images=40, seed=3)
    assert again.tolist() == drawn.tolist()


@pytest.mark.parametrize("candidates", [0, 4])
def test_draw__outside_the_candidates_no_pair_comes_twice(candidates: int) -> None:
    """All that there are: 12 open pairs, so each draw but the first may meet one that was drawn already."""
    owner = np.repeat(np.arange(3), 2)
    every = np.array([image * 6 + caption for image in range(3) for caption in range(6) if owner[caption] != image])
    codes = every[:candidates]
    cut = missing.strata(np.full(candidates, 0.5), np.full(candidates, 0.5), len(every))
    wanted = np.where(np.arange(len(cut.sizes)) == 0, cut.sizes, 0)
    drawn, which = missing.draw(cut, wanted, codes, owner=owner, num_images=3, seed=0)
    assert sorted(drawn.tolist()) == sorted(every[candidates:].tolist())
    assert not which.any()


def test_ceilings__matches_elsewhere_are_shared_out_among_the_queries_of_a_direction() -> None:
    """4 images of 5 captions, and 6 matches outside the candidates: 1.5 an image, 0.3 a caption."""
    owner, none = np.repeat(np.arange(4), 5), np.zeros(0, int)
    got = missing.ceilings(none, none, np.zeros(0), owner, num_images=4, elsewhere=6.0)
    further = np.arange(40)
    by_image = float((poisson.pmf(further, 1.5) * 5 / (5 + further)).sum())
    by_caption = float((poisson.pmf(further, 0.3) * 1 / (1 + further)).sum())
    assert got == pytest.approx({"image-to-text": by_image, "text-to-image": by_caption}, abs=1e-6)
