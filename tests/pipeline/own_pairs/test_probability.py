"""The probability without labels, where the densities are known."""

import numpy as np
import pytest
from scipy.stats import norm

from cusa.pipeline.own_pairs.probability import density_ratio, way_of_being_wrong, wrong_share


def _scores(share: float, *, distance: float = 4.0, number: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    wrong = random.random(number) < share
    own = random.normal(size=number) + distance * wrong
    return own, wrong, random.normal(size=5_000) + distance


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.5])
def test_wrong_share__is_the_share(share: float) -> None:
    own, wrong, planted = _scores(share)
    assert wrong_share(own, planted) == pytest.approx(wrong.mean(), rel=0.15)


def test_wrong_share__clean_data_have_next_to_none() -> None:
    own, _, planted = _scores(0.0)
    assert wrong_share(own, planted) < 0.001


def test_wrong_share__planted_pairs_that_look_like_the_own_are_all_wrong() -> None:
    own, _, planted = _scores(1.0)
    assert wrong_share(own, planted) > 0.9


def test_wrong_share__what_is_wrong_in_another_way_is_taken_off_by_its_share() -> None:
    """A tenth is wrong as the planted pairs are, a fifth in a way that looks the same and is known already."""
    own, wrong, planted = _scores(0.3)
    others = np.random.default_rng(1).normal(size=5_000) + 4
    assert wrong_share(own, planted, known=(0.2, others)) == pytest.approx(wrong.mean() - 0.2, abs=0.03)
    assert wrong_share(own, planted, known=(0.0, others)) == wrong_share(own, planted)


def test_density_ratio__times_share_is_the_posterior() -> None:
    own, _, planted = _scores(0.1, distance=2.0)
    got = 0.1 * density_ratio(own, planted)
    exact = 0.1 * norm.pdf(own, 2) / (0.9 * norm.pdf(own) + 0.1 * norm.pdf(own, 2))
    assert np.abs(got - exact).mean() < 0.01
    order = np.argsort(own)
    assert (np.diff(got[order]) >= 0).all()


def test_way_of_being_wrong__calibrated_at_a_share_it_was_not_told() -> None:
    random = np.random.default_rng(3)
    wrong = random.random(10_000) < 0.15
    own = random.normal(size=(10_000, 3)) - 2.5 * wrong[:, None] * np.array([1, 0.5, 0])
    planted = random.normal(size=(3_000, 3)) - 2.5 * np.array([1, 0.5, 0])
    way = way_of_being_wrong(own, planted)
    assert way is not None
    assert way.share == pytest.approx(wrong.mean(), rel=0.25)
    bins = np.minimum((way.probability_P * 10).astype(int), 9)
    error = sum(abs(way.probability_P[bins == b].sum() - wrong[bins == b].sum()) for b in range(10)) / len(wrong)
    assert error < 0.03
    assert way.middle_F[0] == pytest.approx(-1.4, abs=0.3)


def test_way_of_being_wrong__missing_evidence_speaks_neither_way() -> None:
    random = np.random.default_rng(3)
    own, planted = random.normal(size=(500, 2)), random.normal(size=(500, 2)) - 4
    own[:250, 0] = np.nan
    way = way_of_being_wrong(own, planted)
    assert way is not None
    assert way.probability_P.max() < 0.1


def test_way_of_being_wrong__too_few_pairs_fit_nothing() -> None:
    assert way_of_being_wrong(np.zeros((5, 2)), np.zeros((100, 2))) is None


def test_wrong_share__a_tail_without_an_own_pair_may_hide_half_a_pair() -> None:
    own, planted = np.zeros(50), np.linspace(5, 6, 50)
    assert wrong_share(own, planted) == pytest.approx(0.5 / 50 / 0.95)


def test_wrong_share__right_pairs_that_look_as_bad_as_most_wrong_ones_are_not_called_wrong() -> None:
    """A tenth of clean pairs looks like seven tenths of the planted: only small tails show that none is wrong."""
    random = np.random.default_rng(5)
    own = np.concatenate([random.normal(size=9_000), random.normal(size=1_000) + 4])
    planted = np.concatenate([random.normal(size=2_800) + 4, random.normal(size=1_200) + 9])
    assert wrong_share(own, planted) < 0.01
    some = np.concatenate([own, random.permutation(planted)[:500]])
    assert 0.04 < wrong_share(some, planted) < 0.08, "500 of 10,500 are wrong"
