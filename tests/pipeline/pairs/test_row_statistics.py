"""Means, spreads and lengths of rows: in blocks and of samples as plain loops compute them over whole rows."""

import numpy as np
import pytest

from cusa.pipeline.pairs import row_statistics
from cusa.pipeline.pairs.row_statistics import (
    ImageStatistics,
    TextStatistics,
    group_sums,
    mean_and_moments,
    over_others,
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_statistics, "_ROWS_A_BLOCK", 7)


def _rows(number: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(number, width)) + 0.3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("width", [6, 2048, 2100])
def test_images__mean_and_spread_of_cosines_to_the_others(width: int) -> None:
    """Rows of more than 2,048 numbers are compared with each other, narrower ones with the second moment."""
    rows = _rows(30, width)
    got = ImageStatistics.of(rows)
    wide = rows.astype(float) - rows.astype(float).mean(0)
    norms = np.linalg.norm(wide, axis=1)
    unit = wide / norms[:, None]
    np.testing.assert_allclose(got.norms, norms, rtol=1e-4)
    mean = rows.astype(float).mean(0)
    for row in range(30):
        others = [float(unit[row] @ unit[other]) for other in range(30) if other != row]
        assert got.mean[row] == pytest.approx(np.mean(others), abs=1e-4)
        assert got.spread[row] == pytest.approx(np.std(others), rel=1e-3)
        assert got.shift[row] == pytest.approx(mean @ mean / 2 - rows[row] @ mean, abs=1e-5)


@pytest.mark.parametrize(("number", "step"), [(10, 1), (11, 1), (23, 2), (40, 4)])
def test_images__many_wide_rows_are_compared_with_every_so_manieth(number: int, step: int) -> None:
    rows = _rows(number, 12)
    centre = rows.mean(0)
    norms = np.linalg.norm(rows - centre, axis=1)
    unit = (rows.astype(float) - centre) / norms[:, None]
    got = row_statistics._mean_squares(rows, centre, norms, 10)
    expected = [np.mean([(unit[row] @ one) ** 2 for one in unit[::step]]) for row in range(number)]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    narrow = row_statistics._mean_squares(rows, centre, norms, 12)
    np.testing.assert_allclose(narrow, [np.mean((unit @ one) ** 2) for one in unit], rtol=1e-4)


def test_images__where_all_are_the_same_nothing_stands_out() -> None:
    got = ImageStatistics.of(np.tile(_rows(1, 5), (9, 1)))
    assert (got.norms == 1).all()
    assert (got.spread == 1).all()
    assert len(ImageStatistics.of(_rows(1, 5)).mean) == 1


@pytest.mark.parametrize("centred", [False, True])
def test_moments__of_all_rows_whatever_the_blocks(centred: bool) -> None:
    rows = _rows(23, 4)
    centre, norms = rows.mean(0), np.linspace(1, 2, 23).astype(np.float32)
    mean, second = mean_and_moments(rows, centre, norms) if centred else mean_and_moments(rows)
    used = (rows - centre) / norms[:, None] if centred else rows
    np.testing.assert_allclose(mean, used.mean(0), atol=1e-6)
    np.testing.assert_allclose(second, sum(np.outer(one, one) for one in used) / 23, atol=1e-6)
    assert not any(part.any() for part in mean_and_moments(rows[:0]))


def test_texts__every_field_by_plain_loops() -> None:
    """Image 3 has no caption, image 4 one."""
    owner = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 4, 5, 5, 0, 1])
    rows = _rows(len(owner), 6, seed=2)
    got = TextStatistics.of(rows, owner, 6)
    wide, mean = rows.astype(float), rows.astype(float).mean(0)
    norms = np.linalg.norm(wide - mean, axis=1)
    unit = (wide - mean) / norms[:, None]
    np.testing.assert_allclose(got.mean, mean, atol=1e-6)
    np.testing.assert_allclose(got.norms, norms, rtol=1e-4)
    for image in range(6):
        own = np.flatnonzero(owner == image)
        family = unit[own].mean(0) if len(own) else np.zeros(6)
        np.testing.assert_allclose(got.family[image], family, atol=1e-5)
        assert got.family_shift[image] == pytest.approx(family @ mean, abs=1e-5)
        products = [float(unit[other] @ family) for other in range(len(owner)) if owner[other] != image]
        assert got.family_mean[image] == pytest.approx(np.mean(products), abs=1e-4)
        if len(own):
            assert got.family_spread[image] == pytest.approx(np.std(products), rel=1e-3)
            centre = wide[own].mean(0) - mean
            np.testing.assert_allclose(got.centres[image], centre / np.linalg.norm(centre), atol=1e-4)
        else:
            assert not got.centres[image].any()


def test_over_others__one_image_of_all_captions_has_no_others() -> None:
    rows, query = _rows(5, 3), _rows(1, 3, seed=1)
    own = rows @ query[0]
    mean, _ = over_others(query, mean_and_moments(rows), own=own, owner=np.zeros(5, np.int64))
    assert mean[0] == pytest.approx(0, abs=1e-5)


def test_group_sums__with_and_without_weights() -> None:
    rows, group = _rows(9, 3), np.array([2, 0, 0, 2, 4, 4, 4, 0, 2])
    weights = np.linspace(0.5, 2, 9)
    for used in (None, weights):
        factor = np.ones(9) if used is None else used
        expected = [
            sum((factor[row] * rows[row] for row in range(9) if group[row] == one), np.zeros(3)) for one in range(5)
        ]
        np.testing.assert_allclose(group_sums(rows, group, 5, used), expected, atol=1e-6)
