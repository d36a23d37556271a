"""The map from images to texts: scikit-learn's ridge regression, and nobody vouches for itself."""

import numpy as np
from sklearn.linear_model import Ridge

from cusa.pipeline.pairs.image_text_map import Examples, predict_out_of_fold


def _examples(seed: int, number: int, *, noise: float = 0.1) -> Examples:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(number, 8)).astype(np.float32)
    truth = np.random.default_rng(9).normal(size=(8, 5))
    captions = (images @ truth + noise * rng.normal(size=(number, 5)) + 1).astype(np.float32)
    return Examples(images, captions, np.arange(number) % 7 != 3)


def test_predict_out_of_fold__is_the_ridge_of_the_other_folds_and_splits() -> None:
    own, other = _examples(0, 60), _examples(1, 40)
    got = predict_out_of_fold(own, [other], strength=0.5)
    assert got is not None
    fold = np.random.default_rng(0).permutation(60) % 5
    for held in range(5):
        kept = (fold != held) & own.has_captions
        a = np.concatenate([own.images[kept], other.images[other.has_captions]]).astype(float)
        b = np.concatenate([own.captions[kept], other.captions[other.has_captions]]).astype(float)
        ridge = 0.5 * np.square(a - a.mean(0)).sum() / 8
        # The intercept is left out of the prediction: only the direction from the mean caption counts.
        expected = Ridge(alpha=ridge).fit(a, b - b.mean(0)).predict(own.images[fold == held]) if len(a) else None
        assert expected is not None
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(got[fold == held], expected, atol=1e-4)


def test_predict_out_of_fold__an_images_own_captions_do_not_change_its_prediction() -> None:
    own = _examples(0, 60)
    before = predict_out_of_fold(own)
    turned = own.captions.copy()
    turned[5] = -turned[5]
    after = predict_out_of_fold(Examples(own.images, turned, own.has_captions))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before[5], after[5])
    assert np.abs(before - after).max() > 1e-4


def test_predict_out_of_fold__too_few_pairs_teach_nothing_and_wide_features_are_projected() -> None:
    assert predict_out_of_fold(_examples(0, 40)) is None
    rng = np.random.default_rng(0)
    images = rng.normal(size=(80, 3000)).astype(np.float32)
    captions = images[:, :4].copy()
    got = predict_out_of_fold(Examples(images, captions, np.ones(80, dtype=bool)))
    assert got is not None
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
