"""Normal scores: against scipy's quantiles of the same pairs, whatever the unit, never falling, ties shared."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from cusa.manifests.samples import Split
from cusa.pipeline.calibrate.normal_scores import NormalScores
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods
from tests.pipeline.audited import make_taught


def test_of__a_score_is_the_normal_quantile_of_the_share_of_random_pairs_below() -> None:
    rng = np.random.default_rng(0)
    sample = np.stack([rng.exponential(3.0, 20_000), rng.uniform(-5, 5, 20_000)], axis=1)
    scores = NormalScores.of(sample)
    asked = np.array([[1.0, -4.0], [3.0, 0.0], [9.0, 4.5]])
    below = np.stack([1 - np.exp(-asked[:, 0] / 3), (asked[:, 1] + 5) / 10], axis=1)
    np.testing.assert_allclose(scores(asked), norm.ppf(below), atol=0.04)


def test_of__the_unit_of_a_feature_does_not_matter() -> None:
    sample = np.random.default_rng(1).gamma(2.0, size=(3000, 1))
    asked = np.array([[0.1], [1.0], [5.0], [50.0]])
    np.testing.assert_allclose(
        NormalScores.of(sample)(asked), NormalScores.of(sample * 7 - 3)(asked * 7 - 3), atol=1e-6
    )


def test_of__pairs_of_one_value_share_the_mean_score_and_beyond_the_last_it_goes_on_rising() -> None:
    # A half is 0, a tenth is 1, the rest lies evenly between 2 and 3.
    sample = np.concatenate([np.zeros(5000), np.ones(1000), np.linspace(2, 3, 4000)])[:, None]
    zero, one, top, beyond, far = NormalScores.of(sample)(np.array([[0.0], [1.0], [3.0], [3.5], [4.0]]))[:, 0]
    nodes = np.linspace(-1, 1, 161) * norm.ppf(1 - 5 / 10_000)
    assert zero == pytest.approx(nodes[nodes < norm.ppf(0.5) + 1e-9].mean(), abs=0.03)
    assert norm.ppf(0.5) < one < norm.ppf(0.6)
    assert top >= nodes[-1] - 1e-9
    assert beyond - top == pytest.approx(far - beyond)
    assert far > beyond > top > one > zero


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, 0.0, 0.25, 1.0, 9.0]), min_size=0, max_size=60),
    st.lists(st.floats(-20, 20, allow_nan=False), min_size=2, max_size=20),
)
def test_call__never_falls_and_is_a_number_for_any_sample(sample: list[float], asked: list[float]) -> None:
    scores = NormalScores.of(np.array(sample).reshape(-1, 1))(np.sort(np.array(asked))[:, None])[:, 0]
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= -1e-9).all()


def test_of_split__draws_foreign_pairs_and_the_same_ones_again(tmp_path: Path) -> None:
    split = Split(make_taught(tmp_path, images=12, neighbours=5), "train")
    features = open_neighbourhoods(split, choose(split, Encoders()), depth=5).features(split, ("text_similarity",))
    first, again = (NormalScores.of_split(features, split.caption_owner, split.num_images) for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    # All pairs of so small a split are drawn, so the middle is that of all foreign ones.
    every = np.concatenate(
        [features.matrix(image, np.flatnonzero(split.caption_owner != image))[:, 0] for image in range(12)]
    )
    assert first.values[0, 80] == pytest.approx(np.median(every), abs=1e-6)
