"""The evidence against plain loops, and what it must not depend on."""

import numpy as np
import pytest

from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.own_pairs import features
from cusa.pipeline.own_pairs.cross_modal import flattened, predict_out_of_fold, unit
from cusa.pipeline.own_pairs.features import PairEvidence
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


def _context(images: Modality, described: np.ndarray) -> np.ndarray:
    """Return what each image's neighbours are described by, nearer ones weighing more, centred."""
    out = np.zeros_like(described)
    for image, (ids, similarities) in enumerate(zip(images.near.ids, images.near.similarities, strict=True)):
        for near, similarity in zip(ids, similarities, strict=True):
            out[image] += np.exp(10 * (similarity - similarities[0])) * described[near]
    return unit(unit(out) - unit(out).mean(0))


def _spread(row: np.ndarray, others: np.ndarray) -> float:
    return float(np.sqrt(np.mean([float(row @ other) ** 2 for other in others]))) + 1e-6


@pytest.mark.parametrize("moved_together", [False, True])
@pytest.mark.parametrize("block", [4096, 7])
def test_of_pairs__every_column_equals_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch, block: int, moved_together: bool
) -> None:
    """Own and foreign pairs, with a caption that does not count as a sibling, in blocks of any size."""
    monkeypatch.setattr(features, "_PAIRS_A_BLOCK", block)
    images, texts, owner = draw(40)
    evidence = evidence_of(images, texts, owner, number=40)
    pictures, words = flattened(images.rows, 512), flattened(texts.rows, 256)
    means = np.stack([words[owner == image].mean(0) for image in range(40)])
    predicted, context = predict_out_of_fold(pictures, means), _context(images, unit(means))
    plain = unit(texts.rows - texts.rows.mean(0))
    random = np.random.default_rng(0)
    image = np.sort(random.integers(0, 40, 30))
    caption = np.where(random.random(30) < 0.4, 3 * image, random.integers(0, 120, 30))
    without = 3 * image + random.integers(0, 3, 30)
    expected = []
    for i, c, left_out in zip(image.tolist(), caption.tolist(), without.tolist(), strict=True):
        siblings = [float(plain[c] @ plain[other]) for other in range(3 * i, 3 * i + 3) if other != left_out]
        total = weight = 0.0
        for near, similarity in zip(texts.near.ids[c], texts.near.similarities[c], strict=True):
            if owner[near] == i or (moved_together and owner[near] == owner[c]):
                continue
            share = np.exp(10 * (similarity - texts.near.similarities[c][0]))
            total, weight = total + share * float(pictures[owner[near]] @ pictures[i]), weight + share
        cosine = float(predicted[i] @ words[c])
        expected.append(
            [
                np.mean(siblings),
                max(siblings),
                total / max(weight, 1e-9),
                float(context[i] @ words[c]),
                cosine / _spread(words[c], predicted) + cosine / _spread(predicted[i], words),
            ]
        )
    got = evidence.of_pairs(image, caption, without, moved_together=moved_together)
    assert evidence.names == (
        "sibling_mean",
        "sibling_best",
        "caption_neighbours",
        "image_neighbours",
        "cross_modal",
    )
    np.testing.assert_allclose(got, expected, atol=2e-3)
    np.testing.assert_allclose(evidence.prediction(int(image[0]), caption[:3])[0], expected[0][4], atol=2e-3)


@pytest.mark.parametrize("counts", [[3, 0, 1, 5], [0, 2, 0, 0], [1, 1, 1, 1], [2, 20, 0, 3]])
def test_siblings__are_an_images_captions_sixteen_at_most(counts: list[int]) -> None:
    owner = np.repeat(np.arange(4), counts)
    texts = draw(number := len(owner), captions=1)[1]
    evidence = PairEvidence(owner, num_images=4, images=None, texts=texts)
    rows, there = evidence.siblings(np.arange(4))
    for image in range(4):
        own = [caption for caption in range(number) if owner[caption] == image]
        assert rows[image][there[image]].tolist() == own[:16]
        assert evidence.captions_of(image).tolist() == own
