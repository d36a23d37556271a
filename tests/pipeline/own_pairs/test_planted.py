"""Swaps planted in drawn teachers are found, at shares the method was not told."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cusa.pipeline.own_pairs import planted
from cusa.pipeline.own_pairs.features import PairEvidence
from cusa.pipeline.own_pairs.planted import find_wrong_pairs
from cusa.pipeline.own_pairs.probability import way_of_being_wrong
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


def _told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[np.ndarray, ...], dict[str, Any], Any]]:
    """Keep what each way of being wrong is fitted on and gives."""
    told: list[tuple[tuple[np.ndarray, ...], dict[str, Any], Any]] = []

    def fitted(*rows: np.ndarray, **options: Any) -> Any:
        way = way_of_being_wrong(*rows, **options)
        told.append((rows, options, way))
        return way

    monkeypatch.setattr(planted, "way_of_being_wrong", fitted)
    return told


def test_find_wrong_pairs__the_four_ways_each_on_its_own_planted_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair is right if it is wrong in none of the ways; what one way explains, the next does not count again."""
    told = _told(monkeypatch)
    images, texts, owner = draw(120)
    swapped, _ = swap_captions(owner, 0.1)
    evidence = evidence_of(images, texts, swapped, number=120)
    wrong = find_wrong_pairs(evidence, swapped, num_images=120, near_images=images.near)
    alone, alike, whole, whole_alike = told
    assert [one[2] for one in told] == [wrong.caption_alone, wrong.look_alike, wrong.whole_image, wrong.whole_alike]
    assert not alone[1]
    share, rows = alike[1]["known"]
    assert share == alone[2].share
    assert rows is alone[0][1], "what is known of captions from anywhere"
    assert not whole[1]
    assert whole_alike[1]["known"][0] == whole[2].share
    assert whole_alike[1]["most"] == 0.0005
    np.testing.assert_array_equal(whole_alike[1]["known"][1], whole[0][1][:, 3:])
    every = np.arange(len(swapped))
    own = evidence.of_pairs(swapped, every, every)
    for fitted in (alone, alike):
        np.testing.assert_array_equal(fitted[0][0], own)
    means = np.stack([own[swapped == image][:, 2:].mean(0) for image in range(120)])
    with_looks = np.concatenate([means, evidence.of_images(np.arange(120), np.arange(120))], axis=1)
    np.testing.assert_allclose(whole[0][0], with_looks, rtol=1e-5)
    np.testing.assert_allclose(whole_alike[0][0], with_looks[:, 3:], rtol=1e-5)
    right = (1 - alone[2].probability_P) * (1 - alike[2].probability_P)
    right = right * (1 - whole[2].probability_P[swapped]) * (1 - whole_alike[2].probability_P[swapped])
    np.testing.assert_allclose(wrong.p_wrong_M, np.minimum(1 - right, 0.999), rtol=1e-9)
    np.testing.assert_array_equal(wrong.against(), own < alone[2].middle_F)


@pytest.mark.parametrize("near", [False, True])
def test_planted__captions_come_from_other_images_or_from_those_that_look_alike(near: bool) -> None:
    images, texts, owner = draw(60)
    asked: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]] = []

    class Listening(PairEvidence):
        def of_pairs(self, image: Any, caption: Any, without: Any, *, moved_together: bool = False) -> np.ndarray:
            asked.append((image, caption, without, moved_together))
            return super().of_pairs(image, caption, without, moved_together=moved_together)

    evidence = Listening(owner, num_images=60, images=images, texts=texts)
    ids = images.near.ids if near else None
    random = np.random.default_rng(0)
    planted._one_caption(evidence, owner, ids, random)
    image, caption, without, moved = asked.pop()
    assert not moved
    assert 3500 < len(image) <= 4000
    assert (owner[without] == image).all(), "it stands in for one of the image's own"
    assert (owner[caption] != image).all()
    assert len(set(caption.tolist())) == 180
    assert {int(c) % 3 for c in caption} == {0, 1, 2}, "any of an image's captions"
    alike = [int(owner[c]) in images.near.ids[i].tolist() for i, c in zip(image, caption, strict=True)]
    assert all(alike) == near
    measured = planted._all_captions(evidence, np.arange(60), ids, random, [2, 3, 4])
    image, caption, without, moved = asked.pop()
    assert moved
    assert 1800 < len(measured) <= 2000
    assert (owner[caption] != image).all()
    assert np.array_equal(caption, without)
    sources = owner[caption].reshape(-1, 3)
    assert (sources == sources[:, :1]).all(), "all three captions of one image"
    alike = [int(owner[c]) in images.near.ids[i].tolist() for i, c in zip(image, caption, strict=True)]
    assert all(alike) == near
    expected = PairEvidence.of_pairs(evidence, image, caption, caption, moved_together=True)[:, 2:]
    np.testing.assert_allclose(measured[:, :3], expected.reshape(-1, 3, 3).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(measured[:, 3:], evidence.of_images(image[::3], sources[:, 0]))


def test_find_wrong_pairs__twenty_images_are_enough_and_those_without_captions_do_not_count() -> None:
    images, texts, owner = draw(20)
    assert np.isfinite(
        find_wrong_pairs(evidence_of(images, texts, owner, number=20), owner, num_images=20).p_wrong_M
    ).all()
    assert np.isnan(
        find_wrong_pairs(evidence_of(images, texts, owner, number=20), np.maximum(owner, 1), num_images=20).p_wrong_M
    ).all()
