"""Features of pairs: each as a plain loop computes it, over rows that are all different."""

import math

import numpy as np
import pytest

from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.candidates import Finder
from cusa.pipeline.pairs.features import CROSS_FEATURES, IMAGE_FEATURES, TEXT_FEATURES, PairFeatures

# Image 8 has no caption, 6 and 7 have one each: it has no sibling.
OWNER = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5, 5, 6, 7])
IMAGES, IMAGE_DEPTH, TEXT_DEPTH = 9, 5, 16


def _modality(seed: int, number: int, k: int, width: int = 6) -> Modality:
    rows = np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32) + 0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Modality(rows, nearest_rows(rows, k))


IMAGE_ROWS, TEXT_ROWS = _modality(0, IMAGES, IMAGE_DEPTH), _modality(1, len(OWNER), TEXT_DEPTH)
CROSS = CrossModal(
    IMAGE_ROWS.rows, TEXT_ROWS.rows, np.zeros((IMAGES, 0), dtype=np.int64), np.zeros((len(OWNER), 0), dtype=np.int64)
)


def _cosine(modality: Modality, one: int, other: int) -> float:
    return float(modality.rows[one].astype(float) @ modality.rows[other].astype(float))


def _captions(image: int) -> list[int]:
    return [caption for caption, owner in enumerate(OWNER) if owner == image]


def _level(modality: Modality, row: int, family: list[int]) -> float:
    """Return the mean cosine of a row to its ten nearest among its neighbours of other families."""
    others = [other for other in modality.near.ids[row].tolist() if family[other] != family[row]][:10]
    return sum(_cosine(modality, row, other) for other in others) / len(others) if others else 0.0


def _log_rank(row: int, neighbours: list[int], depth: int) -> float:
    return math.log(neighbours.index(row) + 1 if row in neighbours else depth + 1)


def _image_features(image: int, owner: int) -> dict[str, float]:
    near = IMAGE_ROWS.near.ids.tolist()
    similarity = _cosine(IMAGE_ROWS, image, owner)
    levels = [_level(IMAGE_ROWS, row, list(range(IMAGES))) for row in (image, owner)]
    return {
        "image_similarity": similarity,
        "image_local": 2 * similarity - sum(levels),
        "image_rank": _log_rank(owner, near[image], IMAGE_DEPTH),
        "image_rank_back": _log_rank(image, near[owner], IMAGE_DEPTH),
        "image_mutual": float(owner in near[image] and image in near[owner]),
    }


def _text_features(image: int, caption: int, considered: list[int]) -> dict[str, float]:
    own, family, near = _captions(image), _captions(int(OWNER[caption])), TEXT_ROWS.near.ids.tolist()
    if not own:
        return dict.fromkeys(TEXT_FEATURES, 0.0)

    def best(row: int) -> float:
        return max(_cosine(TEXT_ROWS, row, other) for other in own)

    level = _level(TEXT_ROWS, caption, OWNER.tolist())
    image_level = sum(_level(TEXT_ROWS, row, OWNER.tolist()) for row in own) / len(own)
    siblings = [_cosine(TEXT_ROWS, caption, other) for other in family if other != caption]
    sibling = max(siblings) if siblings else level
    ranks = [near[caption].index(other) + 1 for other in own if other in near[caption]]
    return {
        "text_similarity": best(caption),
        "text_mean": sum(_cosine(TEXT_ROWS, caption, other) for other in own) / len(own),
        "text_set": sum(_cosine(TEXT_ROWS, a, b) for a in family for b in own) / (len(family) * len(own)),
        "text_set_best": max(best(other) for other in considered if OWNER[other] == OWNER[caption]),
        "text_local": 2 * best(caption) - level - image_level,
        "text_rank": math.log(min(ranks) if ranks else TEXT_DEPTH + 1),
        "text_rank_back": math.log(sorted(considered, key=lambda row: -best(row)).index(caption) + 1),
        "text_mutual": float(bool(ranks) and any(caption in near[other] for other in own)),
        "caption_level": level,
        "image_level": image_level,
        "sibling": sibling,
        "sibling_gap": best(caption) - sibling,
    }


@pytest.mark.parametrize("which", ["image", "text", "both", "cross"])
def test_matrix__every_feature_is_what_a_loop_computes(which: str) -> None:
    images = IMAGE_ROWS if which != "text" else None
    texts = TEXT_ROWS if which != "image" else None
    cross = CROSS if which == "cross" else None
    contents = {"image_content": np.arange(IMAGES), "caption_content": np.arange(len(OWNER))}
    finder = Finder(OWNER, images=images, texts=texts, cross=cross, **contents)
    features = PairFeatures(finder, OWNER, num_images=IMAGES, images=images, texts=texts, cross=cross is not None)
    parts = {"image": IMAGE_FEATURES, "text": TEXT_FEATURES, "both": (*IMAGE_FEATURES, *TEXT_FEATURES)}
    assert features.names == parts.get(which, (*IMAGE_FEATURES, *TEXT_FEATURES, *CROSS_FEATURES))
    seen: dict[str, set[float]] = {name: set() for name in features.names}
    for image in range(IMAGES):
        pairs = finder.find(image)
        considered = pairs.caption.tolist()
        matrix = features.matrix(image, pairs)
        assert matrix.shape == (len(considered), len(features.names))
        for caption, row in zip(considered, matrix.tolist(), strict=True):
            expected = _text_features(image, caption, considered) if texts is not None else {}
            expected |= _image_features(image, int(OWNER[caption])) if images is not None else {}
            if cross is not None:
                expected["cross_similarity"] = float(IMAGE_ROWS.rows[image] @ TEXT_ROWS.rows[caption])
            assert dict(zip(features.names, row, strict=True)) == pytest.approx(expected, abs=2e-6)
            for name, value in expected.items():
                seen[name].add(round(value, 4))
    assert {name for name, values in seen.items() if len(values) < 2} == set(), "a constant would prove nothing"


def test_level__looks_at_ten_strangers_at_most() -> None:
    family = np.zeros(len(OWNER), dtype=np.int64)
    family[1:] = np.arange(1, len(OWNER))
    features = PairFeatures(
        Finder(
            family, images=None, texts=TEXT_ROWS, image_content=np.arange(21), caption_content=np.arange(len(OWNER))
        ),
        family,
        num_images=21,
        images=None,
        texts=TEXT_ROWS,
    )
    assert TEXT_DEPTH > 10
    expected = TEXT_ROWS.near.similarities[:, :10].mean(1)
    np.testing.assert_allclose(features._caption_level, expected, atol=1e-6)
