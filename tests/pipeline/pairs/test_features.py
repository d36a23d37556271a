"""Features of pairs: each as a plain loop computes it, over rows that are all different."""

import math

import numpy as np
import pytest

from cusa.errors import DataError
from cusa.pipeline.index.exact import nearest_rows
from cusa.pipeline.index.neighbours import CrossModal, Modality
from cusa.pipeline.pairs.features import (
    CROSS_FEATURES,
    IMAGE_FEATURES,
    MAP_FEATURES,
    TEXT_FEATURES,
    Encodings,
    PairFeatures,
)

# Image 8 has no caption, 6 and 7 have one each: it has no sibling.
OWNER = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5, 5, 6, 7])
IMAGES = 9
WORDS = (
    ["red", "dog", "runs"],
    ["a", "dog"],
    ["cat", "runs"],
    ["house"],
    ["red", "house", "cat"],
    ["a", "bird", "dog"],
)
CAPTIONS = [" ".join(WORDS[number % 6]) for number in range(len(OWNER))]


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _rows(seed: int, number: int, width: int = 6) -> np.ndarray:
    return _unit(np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32) + 0.5)


IMAGE_ROWS, TEXT_ROWS, MAPPED = _rows(0, IMAGES), _rows(1, len(OWNER)), _rows(2, IMAGES)
IMAGE, TEXT = (Modality(rows, nearest_rows(rows, 3)) for rows in (IMAGE_ROWS, TEXT_ROWS))
NOBODY = np.zeros((0, 0), dtype=np.int64)
CROSS = CrossModal(_rows(3, IMAGES), _rows(4, len(OWNER)), NOBODY, NOBODY)


def _own(image: int) -> list[int]:
    return [caption for caption, owner in enumerate(OWNER) if owner == image]


def _centred(rows: np.ndarray) -> list[np.ndarray]:
    wide = rows.astype(float)
    return list(_unit(wide - wide.mean(0)))


def _stands_out(value: float, others: list[float]) -> float:
    return float((value - np.mean(others)) / np.std(others))


def _image_features(image: int, owner: int) -> dict[str, float]:
    rows = _centred(IMAGE_ROWS)
    cosine = float(rows[image] @ rows[owner])
    others = [float(rows[image] @ rows[other]) for other in range(IMAGES) if other != image]
    return {"image_centred": cosine, "image_relative": _stands_out(cosine, others)}


def _level(caption: int) -> float:
    """Return the mean cosine of a caption to its ten nearest of other images; all captions are the sample here."""
    others = sorted(float(TEXT_ROWS[caption] @ TEXT_ROWS[c]) for c in range(21) if OWNER[c] != OWNER[caption])
    return sum(others[-10:]) / 10


def _weights() -> dict[str, float]:
    stems = {"red", "dog", "run", "a", "cat", "house", "bird"} - {"a"}
    number = {stem: sum(any(word.startswith(stem) for word in c.split()) for c in CAPTIONS) for stem in stems}
    return {stem: min(6.0, math.log(len(CAPTIONS) / count)) for stem, count in number.items()}


def _words(caption: int) -> set[str]:
    return {stem for stem in _weights() if any(word.startswith(stem) for word in CAPTIONS[caption].split())}


def _text_features(image: int, caption: int) -> dict[str, float]:
    own, family = _own(image), _own(int(OWNER[caption]))
    rows, mean = _centred(TEXT_ROWS), TEXT_ROWS.astype(float).mean(0)
    cosines = sorted(float(TEXT_ROWS[caption] @ TEXT_ROWS[other]) for other in own)

    def mean_cosine(other: int) -> float:
        return float(np.mean([rows[other] @ rows[one] for one in own]))

    def centre(captions: list[int]) -> np.ndarray:
        value = TEXT_ROWS[captions].astype(float).mean(0) - mean
        return np.asarray(value / np.linalg.norm(value))

    siblings = [float(TEXT_ROWS[caption] @ TEXT_ROWS[other]) for other in family if other != caption]
    weights = _weights()
    total = sum(weights[word] for word in _words(caption))
    covered = sum(weights[word] for word in _words(caption) & set().union(*map(_words, own)))
    strangers = [mean_cosine(other) for other in range(len(OWNER)) if OWNER[other] != image]
    return {
        "text_similarity": cosines[-1],
        "text_two": sum(cosines[-2:]) / len(cosines[-2:]),
        "text_set": float(centre(family) @ centre(own)),
        "text_relative": _stands_out(mean_cosine(caption), strangers),
        "sibling_gap": cosines[-1] - (max(siblings) if siblings else _level(caption)),
        "caption_level": _level(caption),
        "image_level": sum(map(_level, own)) / len(own),
        "words": total,
        "words_missing": total - covered,
        "words_covered": covered / total,
    }


def _map_features(image: int, caption: int) -> dict[str, float]:
    rows = _centred(TEXT_ROWS)
    values = [float(row @ MAPPED[image]) for row in rows]
    others = [value for other, value in enumerate(values) if OWNER[other] != image]
    return {"map_similarity": values[caption], "map_relative": _stands_out(values[caption], others)}


def _cross_features(image: int, caption: int) -> dict[str, float]:
    values = [float(CROSS.captions[other] @ CROSS.images[image]) for other in range(len(OWNER))]
    others = [value for other, value in enumerate(values) if OWNER[other] != image]
    return {"cross_similarity": values[caption], "cross_relative": _stands_out(values[caption], others)}


@pytest.mark.parametrize("which", ["image", "text", "map", "cross"])
def test_matrix__every_feature_is_what_a_loop_computes(which: str) -> None:
    encodings = Encodings(
        images=None if which == "text" else IMAGE,
        texts=None if which == "image" else TEXT,
        cross=CROSS if which == "cross" else None,
        mapped=MAPPED if which in ("map", "cross") else None,
        captions=CAPTIONS,
    )
    features = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings)
    both = (*TEXT_FEATURES, *IMAGE_FEATURES, *MAP_FEATURES)
    expected_names = {"image": IMAGE_FEATURES, "text": TEXT_FEATURES, "map": both, "cross": (*both, *CROSS_FEATURES)}
    assert features.names == expected_names[which]
    seen: dict[str, set[float]] = {name: set() for name in features.names}
    for image in range(IMAGES - 1):
        captions = np.array([caption for caption in range(len(OWNER)) if OWNER[caption] != image])
        matrix = features.matrix(image, captions)
        assert matrix.shape == (len(captions), len(features.names))
        for caption, row in zip(captions.tolist(), matrix.tolist(), strict=True):
            expected = {} if which == "image" else _text_features(image, caption)
            expected |= {} if which == "text" else _image_features(image, int(OWNER[caption]))
            expected |= _map_features(image, caption) if which in ("map", "cross") else {}
            expected |= _cross_features(image, caption) if which == "cross" else {}
            assert dict(zip(features.names, row, strict=True)) == pytest.approx(expected, abs=2e-5)
            for name, value in expected.items():
                seen[name].add(round(value, 4))
        # A pair's features depend on this pair alone: any block of a tile gives the same numbers.
        np.testing.assert_allclose(features.matrix(image, captions[3:5]), matrix[3:5], atol=1e-6)
    assert {name for name, values in seen.items() if len(values) < 2} == set(), "a constant would prove nothing"


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_matrix__pairs_of_many_images_at_once_equal_one_pair_after_the_other(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = PairFeatures(OWNER, num_images=IMAGES, encodings=Encodings(IMAGE, TEXT, CROSS, MAPPED, CAPTIONS))
    image, caption = np.divmod(np.arange(IMAGES * len(OWNER)), len(OWNER))
    some = np.random.default_rng(0).random(len(image)) < share
    image, caption = image[some], caption[some]
    alone = [features.matrix(i, np.array([c]))[0] for i, c in zip(image.tolist(), caption.tolist(), strict=True)]
    for block in (1 << 15, 7):
        monkeypatch.setattr("cusa.pipeline.pairs.features.PAIRS_A_BLOCK", block)
        compared = features.compare(image, caption)
        np.testing.assert_allclose(compared.features, alone, atol=2e-6)
        by_hand = [float(IMAGE_ROWS[i] @ IMAGE_ROWS[OWNER[c]]) for i, c in zip(image, caption, strict=True)]
        np.testing.assert_allclose(compared.image_similarity, by_hand, atol=1e-6)
        np.testing.assert_array_equal(compared.text_similarity, compared.features[:, 0])
    assert features.matrix(image[:0], caption[:0]).shape == (0, len(features.names))


def test_only__the_same_columns_in_another_order() -> None:
    every = PairFeatures(OWNER, num_images=IMAGES, encodings=Encodings(IMAGE, TEXT, None, None, CAPTIONS))
    expected = every.matrix(1, np.arange(5))
    some = every.only(("words", "image_centred"))
    places = [every.names.index(name) for name in some.names]
    np.testing.assert_array_equal(some.matrix(1, np.arange(5)), expected[:, places])
    assert every.matrix(1, np.arange(5)).shape == expected.shape, "the first one still has all"
    with pytest.raises(DataError, match="has the features map_similarity"):
        every.only(["map_similarity"])


def test_matrix__an_image_without_captions_has_no_text_and_those_asked_for_come_in_their_order() -> None:
    encodings = Encodings(IMAGE, TEXT, None, MAPPED, CAPTIONS)
    names = ("map_similarity", "image_centred", "text_similarity")
    features = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings, names=names)
    assert features.names == names
    alone = features.matrix(8, np.arange(5))
    assert (alone[:, [0, 2]] == 0).all()
    assert np.ptp(alone[:, 1]) > 0
    every = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings)
    places = [every.names.index(name) for name in names]
    np.testing.assert_array_equal(features.matrix(1, np.arange(3)), every.matrix(1, np.arange(3))[:, places])
    with pytest.raises(DataError, match="has the features map_similarity, which cannot be computed here"):
        PairFeatures(OWNER, num_images=IMAGES, encodings=Encodings(IMAGE, TEXT, None, None, CAPTIONS), names=names)


def test_matrix__a_level_is_of_the_ten_nearest_of_a_sample_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is drawn once for all; a caption of one that has few strangers in it takes what there is."""
    for name, value in {"_SAMPLE": 8, "_NEAREST": 3, "_ROWS_A_BLOCK": 4}.items():
        monkeypatch.setattr(f"cusa.pipeline.pairs.features.{name}", value)
    encodings = Encodings(None, TEXT, None, None, CAPTIONS)
    features = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings, names=("caption_level", "image_level"))
    sample = np.random.default_rng(0).permutation(len(OWNER))[:8].tolist()
    assert len({int(OWNER[one]) for one in sample}) < 8, "some have siblings in the sample"

    def level(caption: int) -> float:
        cosines = sorted(float(TEXT_ROWS[caption] @ TEXT_ROWS[one]) for one in sample if OWNER[one] != OWNER[caption])
        return sum(cosines[-3:]) / len(cosines[-3:])

    for image in range(IMAGES - 1):
        captions = np.array([caption for caption in range(len(OWNER)) if OWNER[caption] != image])
        of_image = sum(map(level, _own(image))) / len(_own(image))
        expected = [(level(caption), of_image) for caption in captions.tolist()]
        np.testing.assert_allclose(features.matrix(image, captions), expected, atol=1e-5)


def test_map_skill__is_the_mean_of_own_captions_standing_out() -> None:
    features = PairFeatures(OWNER, num_images=IMAGES, encodings=Encodings(IMAGE, TEXT, None, MAPPED, CAPTIONS))
    own = [_map_features(int(OWNER[caption]), caption)["map_relative"] for caption in range(len(OWNER))]
    assert features.map_skill() == pytest.approx(np.mean(own), abs=1e-4)
    without = PairFeatures(OWNER, num_images=IMAGES, encodings=Encodings(IMAGE, TEXT, None, None, CAPTIONS))
    assert without.map_skill() is None


def test_matrix__captions_without_words_have_nothing_to_cover() -> None:
    captions = ["", "dog", *CAPTIONS[2:]]
    names = ("words", "words_missing", "words_covered")
    features = PairFeatures(
        OWNER, num_images=IMAGES, encodings=Encodings(None, TEXT, None, None, captions), names=names
    )
    assert features.matrix(3, np.array([0])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("names", [("text_set",), ("map_relative",), ("image_centred", "words"), ("text_two",)])
def test_matrix__each_feature_alone_is_what_it_is_among_all(names: tuple[str, ...]) -> None:
    encodings = Encodings(IMAGE, TEXT, CROSS, MAPPED, CAPTIONS)
    every = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings)
    some = PairFeatures(OWNER, num_images=IMAGES, encodings=encodings, names=names)
    pairs = np.array([2, 2, 5, 5, 8]), np.array([0, 20, 3, 1, 4])
    places = [every.names.index(name) for name in names]
    np.testing.assert_array_equal(some.matrix(*pairs), every.matrix(*pairs)[:, places])
