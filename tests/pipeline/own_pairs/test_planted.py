"""Swaps planted in drawn teachers are found, at shares the method was not told."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cusa.pipeline.own_pairs.planted import find_wrong_pairs
from tests.pipeline.own_pairs.drawn import draw, evidence_of, swap_captions


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_find_wrong_pairs__single_captions(share: float) -> None:
    images, texts, owner = draw()
    swapped, is_wrong = swap_captions(owner, share)
    wrong = find_wrong_pairs(evidence_of(images, texts, swapped), swapped, num_images=300)
    assert roc_auc_score(is_wrong, wrong.p_wrong_M) > 0.97
    assert wrong.p_wrong_M.mean() == pytest.approx(is_wrong.mean(), abs=0.05)


def test_find_wrong_pairs__all_captions_of_an_image_together() -> None:
    images, texts, owner = draw()
    to = np.arange(300)
    to[:45] = np.roll(to[:45], 1)
    swapped = to[owner]
    wrong = find_wrong_pairs(evidence_of(images, texts, swapped), swapped, num_images=300)
    assert roc_auc_score(swapped != owner, wrong.p_wrong_M) > 0.95
    assert wrong.whole_image is not None
    assert wrong.caption_alone is not None
    assert wrong.whole_image.share > 3 * wrong.caption_alone.share


def test_find_wrong_pairs__all_captions_of_a_look_alike_come_first_but_are_not_called_wrong() -> None:
    images, texts, owner = draw()
    to, used = np.arange(300), np.zeros(300, dtype=bool)
    for image in range(0, 60, 2):
        other = next((int(near) for near in images.near.ids[image, :5] if not used[near]), image)
        if not used[image] and other != image:
            to[[image, other]], used[[image, other]] = [other, image], True
    swapped = to[owner]
    evidence = evidence_of(images, texts, swapped)
    blind, seeing = (
        find_wrong_pairs(evidence, swapped, num_images=300, near_images=near) for near in (None, images.near)
    )
    assert seeing.whole_alike is not None
    assert blind.whole_alike is None
    of_blind, of_seeing = (roc_auc_score(swapped != owner, wrong.p_wrong_M) for wrong in (blind, seeing))
    assert of_seeing > max(of_blind, 0.9)
    clean = find_wrong_pairs(evidence_of(images, texts, owner), owner, num_images=300, near_images=images.near)
    assert (clean.p_wrong_M > 0.5).sum() == 0


def test_find_wrong_pairs__one_caption_an_image() -> None:
    images, texts, owner = draw(captions=1)
    swapped, is_wrong = swap_captions(owner, 0.1)
    wrong = find_wrong_pairs(evidence_of(images, texts, swapped), swapped, num_images=300)
    assert roc_auc_score(is_wrong, wrong.p_wrong_M) > 0.95
    assert wrong.whole_image is None


def test_find_wrong_pairs__clean_data_stay_clean() -> None:
    images, texts, owner = draw()
    wrong = find_wrong_pairs(evidence_of(images, texts, owner), owner, num_images=300)
    assert (wrong.p_wrong_M > 0.5).sum() == 0


@pytest.mark.parametrize("number", [1, 2, 19])
def test_find_wrong_pairs__tiny_splits_have_no_probability(number: int) -> None:
    images, texts, owner = draw(number)
    wrong = find_wrong_pairs(evidence_of(images, texts, owner, number=number), owner, num_images=number)
    assert np.isnan(wrong.p_wrong_M).all()
    assert not wrong.against().any()
