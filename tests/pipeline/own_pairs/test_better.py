"""Better captions for doubtful pairs, where captions were swapped."""

from dataclasses import replace

import numpy as np
import pytest

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


@pytest.mark.parametrize("number", [1, 3, 40])
def test_better_captions__equal_a_plain_loop(number: int) -> None:
    """Of the captions of look-alikes and of doubtful pairs, those that fit better than its own, the best first."""
    images, texts, owner = draw(60)
    evidence = evidence_of(images, texts, owner, number=60)
    wrong = find_wrong_pairs(evidence, owner, num_images=60)
    p_wrong = np.zeros(len(owner))
    p_wrong[[3, 4, 50, 51, 52, 100]] = [0.1, 0.3, 0.9, 0.0999, 0.2, 0.5]
    p_wrong[7] = np.nan
    doubtful = [3, 4, 50, 52, 100]
    better = better_captions(replace(wrong, p_wrong_M=p_wrong), evidence, owner, near_images=images.near, number=number)
    assert sorted(better) == doubtful
    columns = [wrong.names.index(name) for name in ("caption_neighbours", "image_neighbours", "cross_modal")]
    scale = wrong.evidence_MF[:, columns].std(0)
    for caption in doubtful:
        image = int(owner[caption])
        pool = {c for c in range(180) if owner[c] in images.near.ids[image]} | set(doubtful)
        by_map = sorted(
            (c for c in pool if owner[c] != image), key=lambda c, i=image: -evidence.prediction(i, np.array([c]))[0]
        )
        scores = {}
        for other in by_map[:20]:
            rows = evidence.of_pairs(np.array([image]), np.array([other]), np.array([other]), moved_together=True)
            scores[other] = float((rows[0, columns] / scale).sum())
        mine = float((wrong.evidence_MF[caption, columns] / scale).sum())
        expected = [other for other in sorted(scores, key=lambda c, s=scores: -s[c]) if scores[other] > mine]
        assert better[caption].tolist() == expected[:number]


def test_better_captions__nothing_to_compare_with_finds_nothing() -> None:
    images, texts, owner = draw(30)
    evidence = evidence_of(images, texts, owner, number=30)
    wrong = find_wrong_pairs(evidence, owner, num_images=30)
    assert better_captions(wrong, evidence, owner, near_images=None, number=3) == {}
    assert better_captions(wrong, evidence, owner, near_images=images.near, number=0) == {}
    alone = find_wrong_pairs(evidence_of(None, texts, owner, number=30), owner, num_images=30)
    assert better_captions(alone, evidence, owner, near_images=images.near, number=3) == {}
