"""The map from pictures to texts against a plain loop over folds and strengths."""

import numpy as np
import pytest

from cusa.pipeline.own_pairs.cross_modal import predict_out_of_fold, unit


def _ridge(images: np.ndarray, texts: np.ndarray, strength: float) -> np.ndarray:
    return np.linalg.solve(images.T @ images + strength * np.eye(images.shape[1]), images.T @ texts)


def _log_rank(predicted: np.ndarray, texts: np.ndarray) -> float:
    """Return the mean logarithm of the share of texts that are no worse than the own one."""
    scores = unit(predicted) @ unit(texts).T
    return float(np.mean([np.log(np.mean(row >= row[own])) for own, row in enumerate(scores)]))


@pytest.mark.parametrize("seed", [1, 2, 3, 10])  # with 10 the ranks of images among a text's ask for another strength
def test_predict_out_of_fold__equals_a_loop_that_chooses_the_strength_on_images_it_has_not_seen(seed: int) -> None:
    random = np.random.default_rng(seed)
    meaning = random.normal(size=(80, 6))
    images = unit(np.hstack([meaning, 2 * random.normal(size=(80, 60))]))  # most of a picture says nothing
    texts = unit(meaning @ random.normal(size=(6, 10)) + 3 * random.normal(size=(80, 10)))
    fold = np.random.default_rng(0).permutation(80) % 5
    first = fold == 0
    strengths = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    seen, unseen = (
        min(strengths, key=lambda s, of=of: _log_rank(images[first] @ _ridge(images[of], texts[of], s), texts[first]))
        for of in (fold >= 0, ~first)
    )
    assert seen != unseen
    expected = np.empty_like(texts)
    for number in range(5):
        held = fold == number
        expected[held] = images[held] @ _ridge(images[~held], texts[~held], unseen)
    np.testing.assert_allclose(predict_out_of_fold(images, texts), unit(expected - expected.mean(0)), atol=1e-4)
