"""The map from images to texts: scikit-learn's ridge regression, and nobody vouches for itself."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cusa.pipeline.pairs import image_text_map
from cusa.pipeline.pairs.image_text_map import Examples, predict_out_of_fold


def _examples(seed: int, number: int, *, noise: float = 0.1) -> Examples:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(number, 8)).astype(np.float32)
    truth = np.random.default_rng(9).normal(size=(8, 5))
    captions = (images @ truth + noise * rng.normal(size=(number, 5)) + 1).astype(np.float32)
    return Examples(images, captions, np.arange(number) % 7 != 3)


@pytest.mark.parametrize("block", [4096, 5])
def test_predict_out_of_fold__is_the_ridge_of_the_other_folds_and_splits(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_text_map, "_ROWS_A_BLOCK", block)
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


def test_predict_out_of_fold__fifty_images_with_captions_are_enough() -> None:
    some = _examples(0, 60)
    for number, enough in ((49, False), (50, True)):
        has = np.arange(60) < number
        assert (predict_out_of_fold(Examples(some.images, some.captions, has)) is not None) == enough
    few, others = _examples(0, 20), _examples(1, 40)  # 17 and 35 of them have captions
    assert predict_out_of_fold(few, [others]) is not None, "the other splits' pairs count"


def test_predict_out_of_fold__wide_features_are_the_ridge_of_their_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_text_map, "_WIDEST", 64)
    images = np.random.default_rng(0).normal(size=(70, 100)).astype(np.float32)
    own = Examples(images, (images[:, :3] + 1).astype(np.float32), np.ones(70, dtype=bool))
    got = predict_out_of_fold(own, seed=4)
    assert got is not None
    matrix = np.random.default_rng(4).standard_normal((100, 64), dtype=np.float32) / np.sqrt(64)
    fold = np.random.default_rng(4).permutation(70) % 5
    a = (images @ matrix).astype(float)
    kept = fold != 2
    ridge = np.square(a[kept] - a[kept].mean(0)).sum() / 64
    b = own.captions[kept].astype(float)
    expected = Ridge(alpha=ridge).fit(a[kept], b - b.mean(0)).predict(a[~kept])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got[~kept], expected, atol=1e-3)
