"""Calibrations of the package: chosen by weights or by what an image teacher can do, never by a folder's name."""

from typing import Any

import numpy as np
import pytest

from cusa.pipeline.calibrate import calibration, shipped
from cusa.pipeline.pairs.features import IMAGE_FEATURES, MAP_FEATURES, TEXT_FEATURES

NAMES = ["all-MiniLM-L6-v2+imagenet", "all-mpnet-base-v2+imagenet", "all-MiniLM-L6-v2", "all-mpnet-base-v2"]


def _stamp(modality: str, **changes: str) -> dict[str, str]:
    made = calibration.read(shipped.FOLDER / "all-mpnet-base-v2+imagenet.json")
    return {**made.teachers[modality], **changes}


def test_files__each_is_whole_says_what_it_is_and_knows_this_versions_features() -> None:
    assert [path.stem for path in shipped.files()] == NAMES
    for path in shipped.files():
        made = calibration.read(path)
        with_image = "image" in made.teachers
        assert made.features == (*TEXT_FEATURES, *((*IMAGE_FEATURES, *MAP_FEATURES) if with_image else ()))
        assert len(made.resampled) == 20
        assert len(made.unselected) == 2
        assert made.normal_scores
        assert not made.decisions
        assert made.about["fitted"]["pairs"] > 20_000
        assert made.about["measured"]["flickr8k to coco-mini"]["pairs"] > 50
        assert made.about["out_of_fold"]["expected_calibration_error"] < 0.03
        means = np.array([made.means])
        assert 0 < made.probability(means)[0] < 0.2
        # More alike, more likely: the sum over the features that are similarities rises.
        higher = means + np.array(made.scales) * [
            name.startswith(("text_", "image_c", "map_")) for name in made.features
        ]
        assert made.probability(higher)[0] > made.probability(means)[0]
        assert made.score(higher).at_least < made.probability(higher).sum()


@pytest.mark.parametrize(
    ("text", "image", "skill", "name", "why"),
    [
        (
            {},
            {},
            2.8,
            "all-mpnet-base-v2+imagenet",
            "the text teacher by its weights, the image teacher by its weights",
        ),
        ({}, {"preprocessing": "another"}, 2.8, "all-mpnet-base-v2+imagenet", "foretell captions by 2.80"),
        (
            {},
            {"weights_sha256": "another"},
            1.0,
            "all-mpnet-base-v2",
            "left out: its features foretell captions by 1.00",
        ),
        (
            {},
            {"weights_sha256": "another"},
            6.0,
            "all-mpnet-base-v2",
            "left out: its features foretell captions by 6.00",
        ),
        ({}, {}, None, "all-mpnet-base-v2", "too few pairs to learn a map from"),
        ({}, None, None, "all-mpnet-base-v2", "it knows the text teacher by its weights"),
        ({"teacher": "renamed"}, None, None, "all-mpnet-base-v2", "by its weights"),
        ({"weights_sha256": "other"}, None, None, "", "No shipped calibration fits the text teacher all-mpnet-base-v2"),
        (
            {"weights_sha256": "other", "revision": "a commit"},
            None,
            None,
            "all-mpnet-base-v2",
            "by its hub's name, though its files differ",
        ),
        ({"transform": "none"}, None, None, "", "No shipped calibration fits"),
        (None, {}, None, "", "No shipped calibration is for an image teacher alone"),
    ],
)
def test_choose__by_weights_or_by_what_it_can_do(
    text: dict[str, str] | None, image: dict[str, str] | None, skill: float | None, name: str, why: str
) -> None:
    teachers: dict[str, Any] = {}
    if text is not None:
        teachers["text"] = _stamp("text", **text)
    if image is not None:
        teachers["image"] = _stamp("image", **image)
    choice = shipped.choose(teachers, skill)
    assert choice.name == name
    assert (choice.calibration is not None) == bool(name)
    assert why in choice.why


def test_choose__the_bounds_of_an_image_teachers_skill_belong_to_it() -> None:
    """From 0.8 times the smallest skill that it was fitted with to 1.25 times the largest; else it is left out."""
    made = calibration.read(shipped.FOLDER / "all-mpnet-base-v2+imagenet.json")
    known = made.about["fitted"]["map_skill"]
    low, high = 0.8 * min(known), 1.25 * max(known)
    teachers = {"text": _stamp("text"), "image": _stamp("image", weights_sha256="another", teacher="theirs")}
    for skill, fits in (
        (low - 1e-6, False),
        (low + 1e-6, True),
        (high - 1e-6, True),
        (high + 1e-6, False),
    ):
        choice = shipped.choose(teachers, skill)
        assert choice.name == ("all-mpnet-base-v2+imagenet" if fits else "all-mpnet-base-v2"), skill
        if fits:
            for number in (skill, min(known), max(known)):
                assert f"{number:.2f}" in choice.why
            assert "theirs" in choice.why
            assert made.about["fitted"]["image_family"] in choice.why
    # By its weights it fits whatever it can do, and only if it reads pictures alike.
    same = {"text": _stamp("text"), "image": _stamp("image")}
    assert shipped.choose(same, high + 5).name == "all-mpnet-base-v2+imagenet"
    for key in ("weights_sha256", "preprocessing", "transform"):
        other = {"text": _stamp("text"), "image": _stamp("image", **{key: "another"})}
        assert shipped.choose(other, high + 5).name == "all-mpnet-base-v2", key
