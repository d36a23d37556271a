"""The fit: a known logistic world is fitted again, folds share no image, curves rise."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

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


STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)


def _platt(decisions: np.ndarray, match: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return Platt's sigmoid at the wanted decisions, as scikit-learn fits and predicts it."""
    model = LogisticRegression(C=1.0, max_iter=2000).fit(decisions[:, None], match)
    return np.asarray(model.predict_proba(wanted[:, None])[:, 1])


def _centred(decisions: np.ndarray, match: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return centred isotonic regression at the wanted decisions, by pooling neighbours that fall."""
    order = np.argsort(decisions, kind="stable")
    blocks: list[list[float]] = []  # sum of decisions, matches, pairs
    for at in order:
        blocks.append([float(decisions[at]), float(match[at]), 1.0])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last = blocks.pop()
            blocks[-1] = [one + other for one, other in zip(blocks[-1], last, strict=True)]
    levels = [matches / pairs for _, matches, pairs in blocks]
    inside = [level for level in levels if 0 < level < 1]
    if levels[0] == 0:  # (0 + 1/2) / (n + 1), or half of the next level
        levels[0] = min(0.5 / (blocks[0][2] + 1), (inside[0] if inside else 1.0) / 2)
    if levels[-1] == 1:
        pairs = blocks[-1][2]
        levels[-1] = max((pairs + 0.5) / (pairs + 1), (1 + (inside[-1] if inside else 0.0)) / 2)
    knots = [decisions.min() - 1e-9, *(total / pairs for total, _, pairs in blocks), decisions.max() + 1e-9]
    heights = [levels[0] / 2, *levels, (1 + levels[-1]) / 2]
    return np.interp(wanted, knots, heights)


@pytest.mark.parametrize(("number", "seed"), [(400, 0), (1400, 3)])
def test_fit__is_scikit_learns_step_by_step(number: int, seed: int) -> None:
    """Scaled, the penalty chosen by log loss out of the fold, the curve on decisions out of the fold."""
    values, match, images, _ = _world(number, seed=5)
    scaled = (values - values.mean(0)) / values.std(0)
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(scaled, match, images))
    losses, decisions = [], []
    for strength in STRENGTHS:
        held_out = np.empty(number)
        for train, held in folds:
            model = LogisticRegression(C=strength, max_iter=2000).fit(scaled[train], match[train])
            held_out[held] = model.decision_function(scaled[held])
        p = 1 / (1 + np.exp(-held_out))
        losses.append(log_loss(match, p))
        decisions.append(held_out)
    best = int(np.argmin(losses))
    assert len(set(losses)) == len(STRENGTHS), "the penalties differ"
    fitted = fit.fit(values, match, images, seed=seed)
    assert fitted.strength == STRENGTHS[best]
    model = LogisticRegression(C=STRENGTHS[best], max_iter=2000).fit(scaled, match)
    np.testing.assert_allclose(
        [*fitted.coefficients, fitted.intercept], [*model.coef_[0], *model.intercept_], atol=1e-6
    )
    np.testing.assert_allclose(fitted.means, values.mean(0))
    np.testing.assert_allclose(fitted.scales, values.std(0))
    curve = _centred if number >= 1000 else _platt
    asked = np.linspace(decisions[best].min(), decisions[best].max(), 50)
    expected = curve(decisions[best], match, asked)
    np.testing.assert_allclose(np.interp(asked, fitted.decisions, fitted.probabilities), expected, atol=1e-3)
    for train, held in folds:
        expected = curve(decisions[best][train], match[train], decisions[best][held])
        inside = (decisions[best][held] > decisions[best][train].min()) & (
            decisions[best][held] < decisions[best][train].max()
        )
        np.testing.assert_allclose(fitted.out_of_fold[held][inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize(
    ("pairs", "matches", "curve"),
    [(1000, 100, "isotonic"), (999, 300, "sigmoid"), (1000, 99, "sigmoid"), (1500, 100, "isotonic")],
)
def test_fit__few_pairs_or_matches_get_platts_sigmoid(pairs: int, matches: int, curve: str) -> None:
    values = np.random.default_rng(0).normal(size=(pairs, 2))
    match = np.zeros(pairs, dtype=bool)
    match[np.argsort(-values[:, 0] + np.random.default_rng(1).normal(size=pairs))[:matches]] = True
    assert fit.fit(values, match, np.arange(pairs)).curve == curve


@pytest.mark.parametrize(("with_match", "folds"), [(1, 1), (2, 2), (3, 3), (7, 5)])
def test_folds__no_more_than_images_of_each_kind(with_match: int, folds: int) -> None:
    images = np.repeat(np.arange(20), 4)
    match = (images < with_match) & (np.arange(80) % 2 == 0)
    for answers in (match, ~match):
        made = fit._folds(answers, images, 0)
        assert len(made) == folds
        if folds == 1:
            assert [len(part) for part in made[0]] == [80, 80], "too few to hold any out"
        else:
            assert sorted(np.concatenate([held for _, held in made]).tolist()) == list(range(80))


@pytest.mark.parametrize(
    "match",
    [
        [0, 0, 1, 1],
        [0, 1, 0, 1, 1, 1],
        [0, 0, 0, 1, 0, 1, 1, 0, 1, 1],
        [1, 0, 1, 0],
        [0, 0, 0, 1, 0, 1, 0],
        [1, 1, 0, 1],
    ],
)
def test_isotonic__is_the_centred_regression_by_pooling(match: list[int]) -> None:
    rng = np.random.default_rng(len(match))
    decisions, answers = np.sort(rng.normal(size=len(match))), np.array(match, dtype=bool)
    asked = np.linspace(decisions.min() - 1, decisions.max() + 1, 41)
    values = np.interp(asked, *fit._isotonic(decisions, answers))
    np.testing.assert_allclose(values, _centred(decisions, answers, asked), atol=1e-12)
    assert ((values > 0) & (values < 1)).all(), "no pair is certain"


def test_sigmoid__never_falls() -> None:
    decisions = np.linspace(-2, 2, 60)
    knots, probabilities = fit._sigmoid(decisions, decisions < 0)
    assert (probabilities == probabilities[0]).all()
    assert (knots[0], knots[-1]) == (-3, 3)
