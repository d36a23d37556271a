"""The fit: a known logistic world is fitted again, folds share no image, curves rise."""

import numpy as np
import pytest

from cusa.pipeline.calibrate import fit
from cusa.pipeline.calibrate.reliability import reliability


def _world(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs whose probability is known: features, truth, images, probability."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(number, 3)) * [1, 5, 0.1] + [0, 3, -1]
    logit = 2 * values[:, 0] - 0.2 * (values[:, 1] - 3) - 1
    p = 1 / (1 + np.exp(-logit))
    return values, rng.random(number) < p, rng.integers(0, number // 8, number), p


@pytest.mark.parametrize(("number", "curve"), [(400, "sigmoid"), (3000, "isotonic")])
def test_fit__a_logistic_world_is_found_again(number: int, curve: str) -> None:
    values, match, images, _ = _world(number)
    fitted = fit.fit(values, match, images)
    assert fitted.curve == curve
    fresh, _, _, p = _world(2000, seed=1)
    scaled = fit.terms((fresh - fitted.means) / fitted.scales, products=fitted.products)
    made = np.interp(scaled @ fitted.coefficients + fitted.intercept, fitted.decisions, fitted.probabilities)
    assert np.abs(made - p).mean() < 0.06
    assert (np.diff(fitted.decisions) >= 0).all()
    assert (np.diff(fitted.probabilities) >= 0).all()
    assert reliability(fitted.out_of_fold, match)["expected_calibration_error"] < 0.08


def test_fit__products_are_taken_where_they_help() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 2))
    match = rng.random(3000) < 1 / (1 + np.exp(-3 * values[:, 0] * values[:, 1]))
    fitted = fit.fit(values, match, np.arange(3000))
    assert fitted.products
    assert not fit.fit(values[:500], match[:500], np.arange(500)).products, "too few pairs to try"
    fresh = np.random.default_rng(1).normal(size=(2000, 2))
    p = 1 / (1 + np.exp(-3 * fresh[:, 0] * fresh[:, 1]))
    # The terms written out: the features, then the products of each with itself and the later ones.
    first, second = ((fresh - fitted.means) / fitted.scales).T
    columns = np.stack([first, second, first * first, first * second, second * second], axis=1)
    assert fitted.coefficients.shape == (5,)
    decisions = columns @ fitted.coefficients + fitted.intercept
    made = np.interp(decisions, fitted.decisions, fitted.probabilities)
    assert np.abs(made - p).mean() < 0.04
    assert np.abs(fitted.coefficients[[0, 1, 2, 4]]).max() < 0.1 * fitted.coefficients[3], "only their product counts"
    plain = fit.fit(values[:1999], match[:1999], np.arange(1999))
    assert not plain.products
    assert reliability(fitted.out_of_fold, match)["brier"] < 0.8 * reliability(plain.out_of_fold, match[:1999])["brier"]


def test_fit__a_feature_that_never_changes_says_nothing() -> None:
    values, match, images, _ = _world(300)
    with_constant = fit.fit(np.column_stack([values, np.full(300, 7.0)]), match, images)
    assert np.isfinite(with_constant.coefficients).all()
    np.testing.assert_allclose(with_constant.coefficients[:3], fit.fit(values, match, images).coefficients, atol=1e-3)


def test_folds__no_image_is_on_both_sides() -> None:
    _, match, images, _ = _world(500)
    for train, held in fit._folds(match, images, 0):
        assert not set(images[train]) & set(images[held])
        assert len(set(match[train])) == 2


def test_isotonic__keeps_the_order_that_plain_levels_forget() -> None:
    decisions = np.arange(100, dtype=float)
    match = np.random.default_rng(0).random(100) < decisions / 100
    knots, probabilities = fit._isotonic(decisions, match)
    values = np.interp(decisions, knots, probabilities)
    assert (np.diff(values) > 0).all()
    from sklearn.isotonic import IsotonicRegression

    plain = IsotonicRegression().fit_transform(decisions, match.astype(float))
    assert np.abs(values - plain).mean() < 0.1


def test_resampled__are_fits_on_the_pairs_of_the_drawn_images_each_as_often_as_it_was_drawn() -> None:
    values, match, images, _ = _world(300)
    matrix = (values - values.mean(0)) / values.std(0)
    got = fit._resampled(matrix, match, images, 1.0, seed=4)
    drawing, every = np.random.default_rng(4), np.unique(images)
    for row in got:
        drawn = every[drawing.integers(0, len(every), len(every))]
        rows = np.concatenate([np.flatnonzero(images == image) for image in drawn])
        expected, intercept = fit._regression(matrix[rows], match[rows], 1.0)
        np.testing.assert_allclose(row, [*expected, intercept], atol=0.01)


def test_fit__held_out_probabilities_are_calibrated_and_the_resampled_fits_surround_the_fit() -> None:
    values, match, images, _ = _world(4000)
    fitted = fit.fit(values, match, images)
    fresh, truth, _, _ = _world(20_000, seed=7)
    matrix = fit.terms((fresh - fitted.means) / fitted.scales, products=fitted.products)
    made = np.interp(matrix @ fitted.coefficients + fitted.intercept, fitted.decisions, fitted.probabilities)
    assert reliability(made, truth)["expected_calibration_error"] < 0.03
    assert len(fitted.resampled) == 20
    both = np.append(fitted.coefficients, fitted.intercept)
    spread = fitted.resampled.std(0)
    assert (spread > 0).all()
    assert (np.abs(fitted.resampled.mean(0) - both) < 3 * spread).all()
