"""Missing positives: strata, the estimate's interval, and the R@1 ceiling against simulation."""

import numpy as np
import pytest
from scipy.stats import beta, poisson

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


def test_allocate__size_times_the_standard_deviation_of_each_stratum() -> None:
    """Neyman's allocation written out; pairs outside the candidates match as rarely as one in a thousand."""
    p = np.array([0.05, 0.05, 0.2, 0.2, 0.2, 0.5, np.nan, 0.99])
    cut = missing.Strata(np.array([2, 2, 3, 3, 3, 4, 4, 5]), np.array([9000, 700, 400, 300, 200, 100]), ("",) * 6)
    means = [0.0, 0.0, 0.05, 0.2, 0.5, 0.99]  # nothing is known of the second, so the first is no likelier
    shares = [size * max(m * (1 - m), 1e-4) ** 0.5 for size, m in zip(cut.sizes, means, strict=True)]
    expected = [max(5, int(500 * share / sum(shares))) for share in shares]
    assert missing.allocate(cut, p, 500).tolist() == expected
    p[:2] = 0.0005
    filled = missing.Strata(np.array([1, 1, 3, 3, 3, 4, 4, 5]), cut.sizes, cut.names)
    means = [0.0005, 0.0005, 0.0, 0.2, 0.5, 0.99]
    shares = [size * max(m * (1 - m), 1e-4) ** 0.5 for size, m in zip(cut.sizes, means, strict=True)]
    assert missing.allocate(filled, p, 500).tolist() == [max(5, int(500 * s / sum(shares))) for s in shares]
    p[:2] = 0.05
    means[:2] = 0.001, 0.05
    shares = [size * max(m * (1 - m), 1e-4) ** 0.5 for size, m in zip(cut.sizes, means, strict=True)]
    assert missing.allocate(filled, p, 5000).tolist() == [
        min(max(5, int(5000 * share / sum(shares))), size) for share, size in zip(shares, cut.sizes, strict=True)
    ]


def test_strata__a_pair_on_an_edge_is_in_the_upper_one() -> None:
    cut = missing.strata(np.array([0.0, 0.019, 0.02, 0.1, 0.3, 0.6, 1.0]), np.zeros(7), 100)
    assert cut.of_candidates.tolist() == [1, 1, 2, 3, 4, 5, 5]
    assert cut.sizes.tolist() == [93, 2, 1, 1, 1, 2]
    assert cut.names == (
        "no candidate",
        *(f"p_positive {low} to {high}" for low, high in ((0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1))),
    )
    score = np.arange(200) / 200
    by_score = missing.strata(np.full(200, np.nan), score, 1000)
    cuts = np.quantile(score, (0.5, 0.9, 0.99))
    assert by_score.of_candidates.tolist() == [1 + sum(one >= at for at in cuts) for one in score]
    assert by_score.sizes.tolist() == [800, 100, 80, 18, 2]
    assert by_score.names[1] == "score lowest to 0.497"


def test_estimate__of_one_stratum_is_the_beta_distribution_of_jeffreys_prior() -> None:
    """12 of 80 judged pairs match, 20,000 were not judged: the interval is that of the posterior."""
    estimated = missing.estimate(np.array([20_080]), np.array([80]), np.array([12]), seed=1)
    low, high = (12 + 20_000 * beta.ppf(q, 12.5, 68.5) for q in (0.025, 0.975))
    assert estimated.low == pytest.approx(low, rel=0.02)
    assert estimated.high == pytest.approx(high, rel=0.02)
    assert estimated.total == pytest.approx(20_080 * 12 / 80)
    assert (estimated.rates[:, 0] * 20_080).tolist() == pytest.approx([estimated.total, estimated.low, estimated.high])
    two = missing.estimate(np.array([1000, 50]), np.array([100, 50]), np.array([10, 40]))
    assert two.total == pytest.approx(140), "what was judged counts as what it is"
    assert two.low > 50
    assert (two.rates @ [1000, 50])[1] == pytest.approx(two.low)
    nothing = missing.estimate(np.array([1000]), np.array([100]), np.array([0]))
    assert nothing.total == nothing.low > 0, "no match among a hundred does not mean that there is none"


def test_enough__five_or_all() -> None:
    sizes, judged = np.array([100, 100, 3, 3, 0]), np.array([4, 5, 2, 3, 0])
    assert missing.enough(sizes, judged).tolist() == [False, True, False, True, False]


def test_draw__outside_very_many_candidates() -> None:
    """Above two million candidates they are looked up in a sorted list in place of a set."""
    images = 2000
    owner = np.arange(images)
    every = np.delete(np.arange(images * images), np.arange(images) * (images + 1))
    codes = np.random.default_rng(0).permutation(every)[:2_000_000]
    cut = missing.Strata(np.ones(len(codes), np.int8), np.array([10**6, len(codes)]), ("no candidate", "all"))
    drawn, which = missing.draw(cut, np.array([300, 0]), codes, owner=owner, num_images=images, seed=0)
    assert len(set(drawn.tolist())) == 300
    assert not which.any()
    assert not np.isin(drawn, codes).any()
    assert (owner[drawn % images] != drawn // images).all()
