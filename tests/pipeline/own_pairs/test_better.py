"""Better captions for doubtful pairs, where captions were swapped."""

from dataclasses import replace

import numpy as np

from cusa.pipeline.own_pairs.better import better_captions
from cusa.pipeline.own_pairs.planted import find_wrong_pairs
from tests.pipeline.own_pairs.drawn import draw, evidence_of, swap_captions


def test_better_captions__find_the_images_own_ones() -> None:
    images, texts, owner = draw()
    swapped, is_wrong = swap_captions(owner, 0.1)
    evidence = evidence_of(images, texts, swapped)
    wrong = find_wrong_pairs(evidence, swapped, num_images=300)
    better = better_captions(wrong, evidence, swapped, near_images=images.near, number=3)
    asked = [row for row in np.flatnonzero(is_wrong) if row in better]
    assert len(asked) > 0.7 * is_wrong.sum()
    home = sum(bool((owner[better[row]] == swapped[row]).any()) for row in asked)
    assert home > 0.6 * len(asked)
    assert all((swapped[captions] != swapped[row]).all() for row, captions in better.items())


def test_better_captions__an_image_is_never_offered_its_own() -> None:
    """Where every pair is doubtful, an image's own captions are among those that are looked at everywhere."""
    images, texts, owner = draw(60)
    evidence = evidence_of(images, texts, owner, number=60)
    wrong = find_wrong_pairs(evidence, owner, num_images=60)
    doubtful = replace(wrong, p_wrong_M=np.full(len(owner), 0.5))
    better = better_captions(doubtful, evidence, owner, near_images=images.near, number=3)
    assert better
    assert all((owner[captions] != owner[row]).all() for row, captions in better.items())
