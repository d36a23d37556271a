"""Drawing a scene with Pillow: stickers with a white rim and a soft shadow on a quiet background.

A thing is drawn four times too large on a patch of its own and scaled down, so that edges and textures are smooth; what
all images share (textures, backgrounds) is drawn once and kept.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from cusa.pipeline.scenes.meaning import Scene, Thing

_OVER = 4  # supersampling
_RADIUS = {"small": 0.098, "large": 0.156}  # of the image's side
_CENTRES = (0.19, 0.5, 0.81)
_JITTER = 0.02
_RGB = {
    "red": (222, 45, 50),
    "blue": (45, 95, 220),
    "yellow": (250, 208, 40),
    "green": (35, 160, 75),
    "purple": (135, 65, 180),
    "orange": (245, 132, 30),
    "pink": (248, 135, 185),
    "black": (42, 42, 48),
}
_VARIANTS = 6  # paintings of each background, mirrored ones not counted


def draw_scene(scene: Scene, *, size: int, rng: Random) -> Image.Image:
    """Draw a scene.

    Args:
        scene: what to show.
        size: pixels a side.
        rng: the scene's own source of chance: small shifts, turns and shades that mean nothing.

    Returns:
        An RGB image.
    """
    picture = _background(scene.background, rng.randrange(_VARIANTS), size)
    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture.copy()
    for thing in scene.things:
        x = (_CENTRES[thing.column] + rng.uniform(-_JITTER, _JITTER)) * size
        y = (_CENTRES[thing.row] + rng.uniform(-_JITTER, _JITTER)) * size
        _paste(picture, thing, (x, y), size, rng)
    return picture


def _paste(picture: Image.Image, thing: Thing, centre: tuple[float, float], size: int, rng: Random) -> None:
    x, y = centre
    radius = _RADIUS[thing.size] * size * rng.uniform(0.93, 1.07) * _OVER
    side = 2 * (math.ceil(radius / _OVER) + 4) * _OVER
    mask = Image.new("L", (side, side), 0)
    _OUTLINES[thing.shape](ImageDraw.Draw(mask), side / 2, radius, rng.uniform(-9, 9))
    tone = tuple(min(255, max(0, round(channel + rng.uniform(-9, 9)))) for channel in _RGB[thing.colour])
    # A texture is the colour with a much lighter one: towards white, and a good way there so that it shows when small.
    light = tuple(round(channel + (255 - channel) * 0.72) for channel in tone)
    texture = _texture(thing.texture, size, rng.randrange(4)).crop((0, 0, side, side))
    paint = Image.composite(Image.new("RGB", mask.size, light), Image.new("RGB", mask.size, tone), texture)

    small_mask, small_paint = mask.reduce(_OVER), paint.reduce(_OVER)
    rim = small_mask.filter(ImageFilter.GaussianBlur(size / 110)).point(_RIM)
    shadow = rim.filter(ImageFilter.GaussianBlur(size / 55)).point(_SHADOW)
    corner = (round(x) - side // _OVER // 2, round(y) - side // _OVER // 2)
    picture.paste((25, 25, 45), (corner[0] + max(1, size // 80), corner[1] + max(1, size // 55)), shadow)
    picture.paste((255, 255, 255), corner, ImageChops.lighter(rim, small_mask))
    picture.paste(small_paint, corner, small_mask)


_RIM = [min(255, value * 4) for value in range(256)]
_SHADOW = [round(value * 0.45) for value in range(256)]


def _polygon(
    draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float, points: Iterable[tuple[float, float]]
) -> None:
    """Fill a polygon whose corners are given as (angle in degrees from straight up, distance in radii)."""
    corners = []
    for angle, distance in points:
        radians = math.radians(angle + turn)
        corners.append((middle + math.sin(radians) * distance * radius, middle - math.cos(radians) * distance * radius))
    draw.polygon(corners, fill=255)


def _circle(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    draw.circle((middle, middle), radius * 0.95, fill=255)


def _square(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    _polygon(draw, middle, radius, turn, ((45 + 90 * n, 1.2) for n in range(4)))


def _triangle(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    _polygon(draw, middle + radius * 0.15, radius, turn, ((120 * n, 1.2) for n in range(3)))


def _star(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    _polygon(draw, middle, radius, turn, ((36 * n, 0.52 if n % 2 else 1.18) for n in range(10)))


def _heart(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    outline = []
    for step in range(60):
        t = 2 * math.pi * step / 60
        x = 16 * math.sin(t) ** 3 / 16
        y = (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 16
        outline.append((math.degrees(math.atan2(x, y)), math.hypot(x, y) * 1.08))
    _polygon(draw, middle, radius, turn, outline)


def _ring(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    draw.circle((middle, middle), radius, fill=255)
    draw.circle((middle, middle), radius * 0.46, fill=0)


def _cross(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    arm, wide = 1.08, 0.38
    edge, inner = math.hypot(arm, wide), wide * math.sqrt(2)
    slant = math.degrees(math.atan2(wide, arm))
    points: list[tuple[float, float]] = []
    for quarter in range(4):
        points += [(90 * quarter - slant, edge), (90 * quarter + slant, edge), (90 * quarter + 45, inner)]
    _polygon(draw, middle, radius, turn, points)


def _moon(draw: ImageDraw.ImageDraw, middle: float, radius: float, turn: float) -> None:
    draw.circle((middle, middle), radius * 1.08, fill=255)
    shift = math.radians(turn)
    draw.circle(
        (middle + radius * 0.55 * math.cos(shift), middle + radius * 0.55 * math.sin(shift)), radius * 0.82, fill=0
    )


_OUTLINES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "moon": _moon,
}


@lru_cache(maxsize=64)
def _texture(kind: str, size: int, phase: int) -> Image.Image:
    """Return a tile, supersampled and large enough for any thing: 255 where the lighter tone goes."""
    side = 2 * (math.ceil(_RADIUS["large"] * 1.07 * size) + 5) * _OVER
    pitch = max(4.2, size / 19) * _OVER
    tile = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(tile)
    offset = phase * pitch / 4
    cells = range(-1, math.ceil(side / pitch) + 2)
    if kind == "striped":
        for n in range(-1, 2 * math.ceil(side / pitch) + 2):
            start = n * pitch * 1.35 + offset
            wide = pitch * 0.6
            draw.polygon([(start, 0), (start + wide, 0), (start + wide - side, side), (start - side, side)], fill=255)
    elif kind == "dotted":
        for row in cells:
            for column in cells:
                x, y = (column + row % 2 / 2) * pitch * 1.15 + offset, row * pitch + offset
                draw.circle((x, y), pitch * 0.3, fill=255)
    elif kind == "checked":
        for row in cells:
            for column in cells:
                if (row + column) % 2:
                    x, y = column * pitch + offset, row * pitch + offset
                    draw.rectangle((x, y, x + pitch, y + pitch), fill=255)
    return tile


@lru_cache(maxsize=64)
def _background(kind: str, variant: int, size: int) -> Image.Image:
    """Paint a background; the same for every seed, so that it carries no hint of an image's identity."""
    rng = Random(f"{kind}/{variant}")
    side = size * 2
    top, bottom = _GRADIENTS[kind]
    picture = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(picture)
    for y in range(side):
        part = y / (side - 1)
        draw.line((0, y, side, y), fill=tuple(round(a + (b - a) * part) for a, b in zip(top, bottom, strict=True)))
    _MOTIFS[kind](picture, rng)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


_GRADIENTS = {
    "sky": ((134, 190, 236), (208, 232, 248)),
    "meadow": ((176, 214, 130), (132, 186, 96)),
    "beach": ((244, 226, 184), (228, 200, 150)),
    "night": ((20, 24, 58), (52, 54, 104)),
    "snow": ((222, 232, 242), (246, 249, 252)),
    "bricks": ((186, 120, 100), (170, 106, 90)),
}


def _blend(picture: Image.Image, mask: Image.Image, colour: tuple[int, int, int], blur: float) -> None:
    picture.paste(colour, (0, 0), mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask)


def _clouds(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    for _ in range(4):
        x, y, wide = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.16, 0.3) * side
        for _ in range(5):
            left, up = x + rng.uniform(-0.5, 0.5) * wide, y + rng.uniform(-0.12, 0.12) * wide
            draw.ellipse((left - wide * 0.35, up - wide * 0.16, left + wide * 0.35, up + wide * 0.16), fill=150)
    _blend(picture, mask, (255, 255, 255), side / 60)


def _grass(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    for colour in ((104, 160, 76), (196, 226, 146)):
        mask = Image.new("L", picture.size, 0)
        draw = ImageDraw.Draw(mask)
        for _ in range(150):
            x, y, tall = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.025, 0.055) * side
            draw.line((x, y, x + rng.uniform(-0.4, 0.4) * tall, y - tall), fill=150, width=max(1, side // 110))
        _blend(picture, mask, colour, 0.5)


def _ripples(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    for row in range(9):
        phase, height = rng.uniform(0, 6.3), (row + rng.uniform(0.2, 0.8)) * side / 9
        points = [(x, height + math.sin(x / side * 9 + phase) * side * 0.014) for x in range(0, side + 4, 4)]
        draw.line(points, fill=110, width=max(1, side // 70), joint="curve")
    _blend(picture, mask, (206, 172, 120), side / 150)


def _lights(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    for _ in range(42):
        radius = rng.uniform(0.003, 0.008) * side
        draw.circle((rng.uniform(0, side), rng.uniform(0, side)), radius, fill=rng.randrange(120, 230))
    _blend(picture, mask, (236, 238, 255), 0.6)


def _drifts(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    for row in range(3):
        mask = Image.new("L", picture.size, 0)
        draw = ImageDraw.Draw(mask)
        middle, height = rng.uniform(0, side), (row + 0.7) * side / 3
        draw.ellipse((middle - side, height, middle + side, height + side * 0.9), fill=90)
        _blend(picture, mask, ((204, 218, 234), (250, 252, 255))[row % 2], side / 50)
    _lights(picture, rng)


def _courses(picture: Image.Image, rng: Random) -> None:
    side = picture.width
    high, wide, joint = side / 9, side / 4.5, max(1, side // 80)
    draw = ImageDraw.Draw(picture)
    for row in range(10):
        for column in range(-1, 6):
            x, y = (column + row % 2 / 2) * wide, row * high
            shade = rng.randrange(-11, 12)
            colour = (188 + shade, 122 + shade, 102 + shade)
            draw.rectangle((x, y, x + wide, y + high), fill=colour, outline=(214, 178, 162), width=joint)


_MOTIFS: dict[str, Callable[[Image.Image, Random], None]] = {
    "sky": _clouds,
    "meadow": _grass,
    "beach": _ripples,
    "night": _lights,
    "snow": _drifts,
    "bricks": _courses,
}
