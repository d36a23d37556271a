"""The score without a calibration: never worse than the better of its columns, whichever teacher knows something."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import Modality
from cusa.pipeline.pairs.candidates import Finder, weighted_mean
from cusa.pipeline.pairs.default_order import similarity_weights

IMAGES, TOPICS = 160, 20
OWNER = np.repeat(np.arange(IMAGES), 4)


def _world(image_noise: float, text_noise: float, seed: int) -> tuple[Modality, Modality, np.ndarray]:
    """Draw images of twenty topics; a caption matches every image of its topic."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, IMAGES)
    rows = []
    for noise, of_row in ((image_noise, topic), (text_noise, topic[OWNER])):
        centres = rng.normal(size=(TOPICS, 12))
        values = centres[of_row] * (noise < 50) + noise * rng.normal(size=(len(of_row), 12))
        rows.append((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32))
    images, texts = (Modality(one, nearest_rows(one, 5)) for one in rows)
    return images, texts, topic


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("image_noise", "text_noise"), [(1.0, 1.0), (99.0, 1.0), (1.0, 99.0), (2.0, 0.7), (99.0, 0.7)])
def test_similarity_weights__the_order_is_never_worse_than_the_best_column(
    image_noise: float, text_noise: float, seed: int
) -> None:
    images, texts, topic = _world(image_noise, text_noise, seed)
    weights = similarity_weights(OWNER, IMAGES, images, texts)
    assert sum(weights) == pytest.approx(1)
    finder = Finder(
        OWNER,
        images=images,
        texts=texts,
        image_content=np.arange(IMAGES),
        caption_content=np.arange(len(OWNER)),
        weights=weights,
    )
    found = [finder.find([image], everything=True) for image in range(IMAGES)]
    match = np.concatenate([topic[one.image] == topic[OWNER[one.caption]] for one in found])
    precision = {
        name: average_precision_score(match, np.concatenate([getattr(one, name) for one in found]))
        for name in ("score", "image_similarity", "text_similarity")
    }
    assert precision["score"] >= max(precision["image_similarity"], precision["text_similarity"]) - 0.005


@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_similarity_weights__an_image_teacher_that_repeats_the_text_teacher_is_left_out(
    noise: float,
) -> None:
    rng = np.random.default_rng(0)
    place = rng.normal(size=(IMAGES, 12))  # no topics: pictures and captions lie in the same places
    rows = [place + noise * rng.normal(size=place.shape), place[OWNER] + 0.5 * rng.normal(size=(len(OWNER), 12))]
    unit = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in rows]
    images, texts = (Modality(one, nearest_rows(one, 5)) for one in unit)
    assert similarity_weights(OWNER, IMAGES, images, texts) == (0.0, 1.0)
    topical = similarity_weights(OWNER, IMAGES, *_world(1.0, 1.0, 0)[:2])
    assert 0.05 < topical[0] < 0.5, "what looks alike besides what reads alike counts"


def test_similarity_weights__one_teacher_or_one_that_finds_everything_alike() -> None:
    images, texts, _ = _world(1.0, 1.0, 0)
    assert similarity_weights(OWNER, IMAGES, images, None) == (1.0, 0.0)
    assert similarity_weights(OWNER, IMAGES, None, texts) == (0.0, 1.0)
    same = Modality(np.ones_like(images.rows) / np.sqrt(np.float32(12)), images.near)
    assert similarity_weights(OWNER, IMAGES, same, texts) == (0.0, 1.0)
    few = np.zeros(3, dtype=np.int64)
    assert similarity_weights(few, 1, images, texts) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("similarities", "weights", "expected"),
    [
        ((0.2, 0.8), (0.5, 0.5), 0.5),
        ((0.2, 0.8), (0.25, 0.75), 0.65),
        ((np.nan, 0.7), (0.5, 0.5), 0.7),
        ((np.nan, 0.7), (1.0, 0.0), 0.7),
        ((-0.9, 0.1), (0.5, 0.5), 0.0),
        ((1.2, 1.0), (1.0, 0.0), 1.0),
    ],
)
def test_weighted_mean__of_similarities_that_are_there(
    similarities: tuple[float, ...], weights: tuple[float, ...], expected: float
) -> None:
    got = weighted_mean([np.array([value]) for value in similarities], weights)
    np.testing.assert_allclose(got, [expected])


def _by_hand(images: np.ndarray, texts: np.ndarray) -> tuple[float, float]:
    """Return the weights as the module's docstring derives them, by plain loops over every pair."""
    by_text, by_image, siblings = [], [], []
    for image in range(IMAGES):
        own = [caption for caption in range(len(OWNER)) if OWNER[caption] == image]
        for one in own:
            siblings.append(max(float(texts[one] @ texts[other]) for other in own if other != one))
        cosines = texts @ texts[own].T
        for caption in range(len(OWNER)):
            if OWNER[caption] != image:
                by_text.append(float(cosines[caption].max()))
                by_image.append(float(images[image] @ images[OWNER[caption]]))
    text, image = np.array(by_text), np.array(by_image)
    bar = np.mean(siblings)
    text_distance = (bar - text.mean()) / text.std()
    if text_distance < 1:
        return (1.0, 0.0)
    alike = text >= min(bar, np.quantile(text, 0.999), text.max())
    image_distance = (image[alike].mean() - image.mean()) / image.std()
    if image_distance < 0.3:
        return (0.0, 1.0)
    r = np.corrcoef(text[~alike], image[~alike])[0, 1] if image[~alike].std() > 1e-6 else 0.0
    if r > 0.5:
        return (0.0, 1.0)
    of_image = 0.5 * max(image_distance - r * text_distance, 0) / image.std()
    of_text = max(text_distance - r * image_distance, 0) / text.std()
    total = of_image + of_text
    return (of_image / total, of_text / total) if total else (0.0, 1.0)


@pytest.mark.parametrize("narrow", [1.0, 0.2], ids=["as wide", "narrow"])
@pytest.mark.parametrize(("image_noise", "text_noise"), [(1.0, 1.0), (0.5, 1.5), (2.0, 0.7), (99.0, 0.7), (1.0, 99.0)])
def test_similarity_weights__are_the_discriminant_of_the_docstring(
    image_noise: float, text_noise: float, narrow: float
) -> None:
    """Also where one teacher's cosines all lie near 1: distances are in standard deviations."""
    images, texts, _ = _world(image_noise, text_noise, 3)
    rows = images.rows * narrow
    rows = np.concatenate([rows, np.full((IMAGES, 1), (1 - narrow**2) ** 0.5, np.float32)], axis=1)
    weights = similarity_weights(OWNER, IMAGES, Modality(rows, images.near), texts)
    assert weights == pytest.approx(_by_hand(rows, texts.rows), abs=1e-4)


def test_similarity_weights__a_teacher_without_spread_says_nothing() -> None:
    images, texts, _ = _world(1.0, 1.0, 0)
    same_images = Modality(np.tile(images.rows[:1], (IMAGES, 1)), images.near)
    same_texts = Modality(np.tile(texts.rows[:1], (len(OWNER), 1)), texts.near)
    assert similarity_weights(OWNER, IMAGES, images, same_texts) == (1.0, 0.0)
    assert similarity_weights(OWNER, IMAGES, same_images, texts) == (0.0, 1.0)
    assert similarity_weights(OWNER, IMAGES, same_images, same_texts) == (0.5, 0.5)
    one_each = np.arange(IMAGES)
    assert similarity_weights(one_each, IMAGES, images, Modality(texts.rows[:IMAGES], texts.near)) == (0.5, 0.5)
