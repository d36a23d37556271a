"""Pictures show what the scene holds: every thing visible, in its colour, in its cell."""

import math
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

from cusa.pipeline.scenes.meaning import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing
from cusa.pipeline.scenes.pictures import draw_scene


class Steady(Random):
    """Chance that always says the middle, so that two pictures differ by their scenes only."""

    def random(self) -> float:
        return 0.5

    def randrange(self, *args: Any, **kwargs: Any) -> int:
        return 0


def _pixels(*things: Thing, background: str = "sky", size: int = 96) -> np.ndarray:
    return np.asarray(draw_scene(Scene(things, background), size=size, rng=Steady()), dtype=np.int32)


def _changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(first - second).sum(2) > 30


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_thing_shows_on_every_background(shape: str, background: str) -> None:
    empty = _pixels(background=background)
    for colour, size, texture in product(COLOURS, SIZES, TEXTURES):
        shown = _changed(_pixels(Thing(shape, colour, size, texture, 1, 1), background=background), empty)
        assert shown.sum() > (90 if size == "small" else 260), (colour, size, texture)
        rows, columns = np.nonzero(shown)
        assert abs(rows.mean() - 47.5) < 5
        assert abs(columns.mean() - 47.5) < 5


def test_a_large_thing_is_clearly_larger_than_a_small_one() -> None:
    empty = _pixels()
    for shape in SHAPES:
        small, large = (_changed(_pixels(Thing(shape, "red", s, "plain", 1, 1)), empty).sum() for s in SIZES)
        assert large > 1.8 * small, shape


def test_cells_are_where_they_are_named() -> None:
    empty = _pixels()
    for column, row in product(range(3), range(3)):
        rows, columns = np.nonzero(_changed(_pixels(Thing("circle", "red", "large", "plain", column, row)), empty))
        assert int(columns.mean() // 32) == column
        assert int(rows.mean() // 32) == row


def test_a_neighbour_never_hides_a_thing() -> None:
    """The worst case: large things in the cells beside it, drawn after it."""
    below = Thing("square", "yellow", "large", "plain", 1, 2)
    beside = Thing("square", "yellow", "large", "plain", 2, 1)
    for shape, size in product(SHAPES, SIZES):
        thing = Thing(shape, "blue", size, "plain", 1, 1)
        alone = _changed(_pixels(thing), _pixels()).sum()
        crowded = _changed(_pixels(thing, below, beside), _pixels(below, beside)).sum()
        assert crowded > 0.75 * alone, (shape, size)


def test_plain_things_have_their_colour_and_textures_a_lighter_one_too() -> None:
    hue = {"red": 0, "green": 1, "blue": 2}
    for colour, channel in hue.items():
        plain = _pixels(Thing("square", colour, "large", "plain", 1, 1))[42:54, 42:54]
        assert (plain.argmax(2) == channel).all()
        assert plain.std((0, 1)).max() < 3
        for texture in TEXTURES[1:]:
            textured = _pixels(Thing("square", colour, "large", texture, 1, 1))[42:54, 42:54]
            assert textured.std((0, 1)).max() > 25, texture
            assert textured.mean() > plain.mean() + 20


def test_textures_look_different() -> None:
    crops = [_pixels(Thing("square", "blue", "large", t, 1, 1))[40:56, 40:56] for t in TEXTURES]
    for first in range(4):
        for second in range(first):
            assert np.abs(crops[first] - crops[second]).mean() > 20


def test_chance_moves_things_a_little_and_the_same_chance_draws_the_same() -> None:
    scene = Scene((Thing("heart", "pink", "small", "striped", 0, 2),), "beach")
    first, again, other = (np.asarray(draw_scene(scene, size=96, rng=Random(n))) for n in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("size", [32, 96, 224])
def test_any_size(size: int) -> None:
    scene = Scene((Thing("moon", "green", "large", "checked", 2, 2),), "bricks")
    picture = draw_scene(scene, size=size, rng=Random(0))
    assert picture.size == (size, size)
    assert picture.mode == "RGB"


def _lens(large: float, small: float, apart: float) -> float:
    """Return the area that two circles share."""
    one = math.acos((apart**2 + large**2 - small**2) / (2 * apart * large))
    two = math.acos((apart**2 + small**2 - large**2) / (2 * apart * small))
    return large**2 * (one - math.sin(2 * one) / 2) + small**2 * (two - math.sin(2 * two) / 2)


@pytest.mark.parametrize(
    ("shape", "area", "upper", "left"),
    [
        ("circle", math.pi * 0.95**2, (0.48, 0.52), (0.48, 0.52)),
        ("square", 2 * 1.2**2, (0.48, 0.52), (0.48, 0.52)),
        ("triangle", 3 * math.sqrt(3) / 4 * 1.2**2, (0.2, 0.4), (0.3, 0.52)),  # it stands on its side
        ("star", 5 * 1.18 * 0.52 * math.sin(math.pi / 5), (0.52, 0.6), (0.48, 0.52)),  # its first tip is up
        ("heart", 2.62, (0.6, 0.8), (0.48, 0.52)),
        ("ring", math.pi * (1 - 0.46**2), (0.48, 0.52), (0.48, 0.52)),
        ("cross", 2 * 2.16 * 0.76 - 0.76**2, (0.48, 0.52), (0.48, 0.52)),
        ("moon", math.pi * 1.08**2 - _lens(1.08, 0.82, 0.55), (0.48, 0.52), (0.75, 0.95)),
    ],
)
def test_shapes_are_as_large_as_their_geometry_says_and_the_right_way_up(
    shape: str, area: float, upper: tuple[float, float], left: tuple[float, float]
) -> None:
    """In squares of the thing's radius, which is 0.156 of the picture's side for a large one."""
    pixels = _pixels(Thing(shape, "red", "large", "plain", 1, 1), size=192)
    mine = np.abs(pixels - np.array((222, 45, 50))).sum(2) < 30
    assert mine.sum() / (0.156 * 192) ** 2 == pytest.approx(area, rel=0.07)
    assert upper[0] < mine[:96].sum() / mine.sum() < upper[1]
    assert left[0] < mine[:, :96].sum() / mine.sum() < left[1]
    assert mine[95:97, 95:97].all() == (shape not in ("ring", "moon"))
