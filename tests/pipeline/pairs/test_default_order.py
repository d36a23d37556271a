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
