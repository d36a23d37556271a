"""Crops, mirrors and colours against plain formulas and properties that any picture must have."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cusa.models.preprocess import Preprocess
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.augment.draws import kept_patches, uniforms
from cusa.train.data.augment.pictures import crop_box, mirror, recolour

UNIT = st.floats(0, 1, exclude_max=True)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    numbers=st.tuples(UNIT, UNIT, UNIT, UNIT),
    smallest=st.floats(0.01, 1),
    ratio=st.floats(1, 10),
    own=st.booleans(),
)
def test_crop_box__lies_inside_any_picture(
    width: int, height: int, numbers: tuple[float, ...], smallest: float, ratio: float, own: bool
) -> None:
    box = crop_box(width, height, np.array(numbers), smallest=smallest, ratio=ratio, own=own)
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, tall = right - left, bottom - top
    middle = width / height if own else 1.0
    # Within what rounding to whole pixels may add.
    assert (wide - 0.5) / (tall + 0.5) <= middle * ratio * (1 + 1e-9) or wide == 1
    assert (wide + 0.5) / (tall - 0.5) >= middle / ratio * (1 - 1e-9) or tall == 1


def test_crop_box__areas_and_proportions_are_those_of_a_plain_rejection_loop() -> None:
    """Where every proportion fits, drawing among those that fit is drawing until one fits."""
    numbers = uniforms(np.arange(20_000), 4, seed=3, epoch=0)
    boxes = np.array([crop_box(640, 640, row, smallest=0.1, ratio=4 / 3) for row in numbers[:, :4]])
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (wide * tall) < 640 * 640 * 3 / 4  # beyond that area the widest proportions leave the picture
    draw = np.random.default_rng(0)
    area = draw.uniform(0.1, 1, 200_000) * 640 * 640
    proportions = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3), 200_000))
    area, proportions = area[area < 640 * 640 * 3 / 4], proportions[area < 640 * 640 * 3 / 4]
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        ours = np.quantile((wide * tall)[fits], quantile)
        assert ours == pytest.approx(np.quantile(area, quantile), rel=0.03)
        ours = np.quantile((wide / tall)[fits], quantile)
        assert ours == pytest.approx(np.quantile(proportions, quantile), rel=0.02)
    # The place is even: its mean share of the room that is left is a half, and it reaches both ends.
    room = 640 - wide
    share = boxes[:, 0][room > 50] / room[room > 50]
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    assert (share.min(), share.max()) == (0, 1)


def test_crop_box__a_long_picture_gives_its_outermost_proportions() -> None:
    numbers = uniforms(np.arange(200), 4, seed=0, epoch=0)
    for row in numbers:
        left, top, right, bottom = crop_box(3000, 100, row, smallest=0.9, ratio=4 / 3)
        assert (right - left, bottom - top) == (133, 100)
        left, top, right, bottom = crop_box(100, 3000, row, smallest=0.9, ratio=4 / 3)
        assert (right - left, bottom - top) == (100, 133)
        left, top, right, bottom = crop_box(3000, 100, row, smallest=0.9, ratio=4 / 3, own=True)
        assert (right - left) * (bottom - top) >= 0.88 * 3000 * 100


def test_array_of__is_pillows_resize_of_the_part() -> None:
    draw = np.random.default_rng(1)
    image = Image.fromarray(draw.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for resample, size in (("bicubic", 32), ("bilinear", 64)):
        got = Preprocess(size, resample=resample).array_of(image, (10, 20, 70, 80))
        part = image.resize((size, size), getattr(Image.Resampling, resample.upper()), box=(10, 20, 70, 80))
        np.testing.assert_array_equal(got, np.asarray(part).transpose(2, 0, 1))
    whole = Preprocess(32, fit="squash")
    np.testing.assert_array_equal(whole.array_of(image, (0, 0, 120, 90)), whole.array(image))


def test_mirror__is_the_other_way_round() -> None:
    square = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    for row in range(4):
        for column in range(4):
            assert (mirror(square)[:, row, column] == square[:, row, 3 - column]).all()
    np.testing.assert_array_equal(mirror(mirror(square)), square)


def _numbers(name: str, at: float) -> np.ndarray:
    place = {"brightness": 1, "contrast": 2, "saturation": 3, "hue": 4}[name]
    numbers = np.full(5, 0.5)
    numbers[place] = at
    return numbers


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("at", [0.0, 0.25, 0.5, 0.9])
def test_recolour__is_the_textbooks_blend(name: str, at: float) -> None:
    draw = np.random.default_rng(2)
    square = draw.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    got = recolour(square, _numbers(name, at), AugmentConfig(**{name: 0.6}))
    factor = 1 + (2 * at - 1) * 0.6
    grey = 0.299 * square[0] + 0.587 * square[1] + 0.114 * square[2]
    base = {"brightness": np.zeros_like(grey), "contrast": np.full_like(grey, grey.mean()), "saturation": grey}[name]
    expected = np.clip(base + factor * (square.astype(np.float64) - base), 0, 255)
    assert np.abs(got - expected).max() <= 2  # greys and blends are cut to whole numbers on the way


@pytest.mark.parametrize("bytes_", [-128, -100, -43, -1, 1, 2, 60, 127])
def test_recolour__hue_turns_by_so_many_bytes_of_a_circle_of_256(bytes_: int) -> None:
    red = np.zeros((3, 2, 2), np.uint8)
    red[0] = 255
    turned = recolour(red, _numbers("hue", 0.5 + bytes_ / 256 + 1e-9), AugmentConfig(hue=0.5))
    expected = Image.new("HSV", (2, 2), (bytes_ % 256, 255, 255)).convert("RGB")
    np.testing.assert_array_equal(turned, np.asarray(expected).transpose(2, 0, 1))


def test_recolour__hue_turns_and_leaves_greys() -> None:
    red = np.zeros((3, 2, 2), dtype=np.uint8)
    red[0] = 200
    third = recolour(red, _numbers("hue", 1 - 1 / 6 - 1e-9), AugmentConfig(hue=0.5))  # +1/3 of the circle: green
    assert abs(colorsys.rgb_to_hsv(*(third[:, 0, 0] / 255))[0] - 1 / 3) < 0.01
    grey = np.full((3, 2, 2), 90, dtype=np.uint8)
    np.testing.assert_array_equal(recolour(grey, _numbers("hue", 0.9), AugmentConfig(hue=0.5)), grey)


def test_recolour__at_the_middle_nothing_changes_and_orders_differ() -> None:
    draw = np.random.default_rng(3)
    square = draw.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    config = AugmentConfig(brightness=0.5, contrast=0.5, saturation=0.5)
    np.testing.assert_array_equal(recolour(square, np.full(5, 0.5), config), square)
    ends = {recolour(square, np.array([n / 24 + 0.01, 0.9, 0.1, 0.9, 0.5]), config).tobytes() for n in range(24)}
    assert len(ends) > 1


def test_uniforms__are_even_independent_and_stay_what_they_are() -> None:
    numbers = uniforms(np.arange(50_000), 3, seed=0, epoch=0)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts, _ = np.histogram(column, bins=20, range=(0, 1))
        assert ((counts - 2500) ** 2 / 2500).sum() < 44  # chi square of 19 degrees, once in a thousand
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.02
    assert np.abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.02
    others = [uniforms(np.arange(50_000), 1, seed=1, epoch=0), uniforms(np.arange(50_000), 1, seed=0, epoch=1)]
    for other in others:
        assert np.abs(np.corrcoef(numbers[:, 0], other[:, 0])[0, 1]) < 0.02
    np.testing.assert_array_equal(uniforms(np.array([7, 3]), 2, seed=0, epoch=0), numbers[[7, 3], :2])


def test_kept_patches__every_patch_equally_often_and_none_twice() -> None:
    kept = kept_patches(np.arange(4000), patches=16, kept=4, seed=0, epoch=2)
    assert kept.shape == (4000, 4)
    assert (np.diff(kept, axis=1) > 0).all()
    counts = np.bincount(kept.reshape(-1), minlength=16)
    assert np.abs(counts - 1000).max() < 130
    np.testing.assert_array_equal(kept_patches(np.array([11]), patches=16, kept=4, seed=0, epoch=2), kept[11:12])
