"""The evidence against plain loops, and what it must not depend on."""

import numpy as np
import pytest

from cusa.pipeline.own_pairs.cross_modal import flattened, predict_out_of_fold, unit
from tests.pipeline.own_pairs.drawn import draw, evidence_of


def test_of_pairs__siblings_equal_a_plain_loop() -> None:
    images, texts, owner = draw(40)
    evidence = evidence_of(images, texts, owner, number=40)
    every = np.arange(len(owner))
    got = evidence.of_pairs(owner, every, every)
    rows = unit(texts.rows - texts.rows.mean(0))
    for caption in (0, 7, 119):
        cosines = [float(rows[caption] @ rows[c]) for c in every if owner[c] == owner[caption] and c != caption]
        assert got[caption, 0] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert got[caption, 1] == pytest.approx(max(cosines), abs=1e-5)


def test_of_pairs__caption_neighbours_equal_a_plain_loop() -> None:
    images, texts, owner = draw(40)
    evidence = evidence_of(images, texts, owner, number=40)
    rows = flattened(images.rows, 512)
    got = evidence.of_pairs(np.array([5]), np.array([30]), np.array([30]))[0]
    total, weights = 0.0, 0.0
    for near, similarity in zip(texts.near.ids[30], texts.near.similarities[30], strict=True):
        if owner[near] != 5:
            weight = np.exp(10 * (similarity - texts.near.similarities[30][0]))
            total, weights = total + weight * float(rows[owner[near]] @ rows[5]), weights + weight
    assert got[evidence.names.index("caption_neighbours")] == pytest.approx(total / weights, abs=1e-4)


def test_of_pairs__moved_together_ignores_the_captions_of_the_caption_s_own_image() -> None:
    images, texts, owner = draw(40)
    evidence = evidence_of(images, texts, owner, number=40)
    column = evidence.names.index("caption_neighbours")
    alone, together = (
        evidence.of_pairs(np.array([5]), np.array([30]), np.array([30]), moved_together=moved)[0, column]
        for moved in (False, True)
    )
    near = owner[texts.near.ids[30]]
    assert (near == owner[30]).any()
    assert alone != together


@pytest.mark.parametrize("source", [5, 9, "look-alike"])
def test_of_images__equals_a_plain_loop(source: int | str) -> None:
    images, texts, owner = draw(40)
    alike = images.near.ids[5].tolist()
    row = alike[2] if isinstance(source, str) else source
    evidence = evidence_of(images, texts, owner, number=40)
    rows = flattened(texts.rows, 256)
    means = np.stack([rows[owner == image].mean(0) for image in range(40)])
    described, predicted = unit(means), predict_out_of_fold(flattened(images.rows, 512), means)
    own = float(predicted[5] @ described[row])
    elsewhere = max(float(predicted[other] @ described[row]) for other in alike)
    # A look-alike whose captions the image has is described by the image's own.
    of_others = [described[5] if other == row and row != 5 else described[other] for other in alike]
    here = max(float(predicted[5] @ one) for one in of_others)
    got = evidence.of_images(np.array([5, 5]), np.array([row, row]))
    np.testing.assert_allclose(got, [[own - elsewhere, own - here]] * 2, atol=1e-4)


def test_of_pairs__without_image_teacher_only_siblings_speak() -> None:
    _, texts, owner = draw(40)
    evidence = evidence_of(None, texts, owner, number=40)
    assert evidence.names == ("sibling_mean", "sibling_best")


def test_of_pairs__without_siblings_the_neighbourhoods_speak() -> None:
    images, texts, owner = draw(40, captions=1)
    evidence = evidence_of(images, texts, owner, number=40)
    assert evidence.names == ("caption_neighbours", "image_neighbours", "cross_modal")
    assert np.isfinite(evidence.of_pairs(owner, np.arange(40), np.arange(40))).all()


def test_of_pairs__an_only_caption_has_no_sibling_evidence() -> None:
    images, texts, owner = draw(40)
    owner = owner.copy()
    owner[:2] = 1  # image 0 keeps one caption
    evidence = evidence_of(images, texts, owner, number=40)
    got = evidence.of_pairs(owner[2:3], np.array([2]), np.array([2]))[0]
    assert np.isnan(got[:2]).all()
    assert np.isfinite(got[2:]).all()


def test_predict_out_of_fold__an_image_s_own_text_does_not_reach_its_prediction() -> None:
    """Change one image's text: its own prediction moves only by the common centring, others' by the fit."""
    images, texts, owner = draw(60, captions=1)
    pictures, words = flattened(images.rows, 24), flattened(texts.rows, 20)
    changed = words.copy()
    changed[3] = -words[3]
    before, after = (predict_out_of_fold(pictures, rows) for rows in (words, changed))
    moved = 1 - np.einsum("nd,nd->n", before, after)
    fold = np.random.default_rng(0).permutation(60) % 5
    same_fold, other_folds = moved[fold == fold[3]], moved[fold != fold[3]]
    assert np.median(same_fold) < 0.2 * np.median(other_folds)


def test_flattened__rows_are_unit_and_variances_drawn_together() -> None:
    random = np.random.default_rng(0)
    rows = unit(random.normal(size=(500, 8)) * np.array([8, 4, 2, 1, 1, 1, 1, 1]) + 3)
    got = flattened(rows, 4)
    assert got.shape == (500, 4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    spread = got.std(0)
    assert spread.max() / spread.min() < 4
