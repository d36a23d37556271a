"""Crops, mirroring and colours from numbers in [0, 1), without randomness of their own.

Legend: H and W pixels of the picture that the student reads, often a square.
"""

import math
from itertools import permutations

import numpy as np
from PIL import Image, ImageEnhance

from cusa.train.data.augment.config import AugmentConfig

_ORDERS = tuple(permutations(("brightness", "contrast", "saturation", "hue")))
_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def crop_box(
    width: int, height: int, numbers: np.ndarray, *, smallest: float, ratio: float, own: bool = False
) -> tuple[int, int, int, int]:
    """Return a random crop's box, in pixels: left, top, right, bottom.

    Its share of the area is even between `smallest` and 1, the logarithm of its proportions even among those that fit
    the picture at that area; of a picture too long for any, the largest crop of the outermost proportions is taken.

    Args:
        width: of the picture.
        height: of the picture.
        numbers: four in [0, 1): area, proportions, place across, place down.
        smallest: share of the area, in (0, 1].
        ratio: widest proportions, at least 1.
        own: whether proportions are relative to the picture's own.

    Returns:
        A box inside the picture, of one pixel at least.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, as torchvision's RandomResizedCrop; it draws
    proportions until they fit, at most ten times, and here they are drawn among those that fit.
    """
    area = (smallest + (1 - smallest) * float(numbers[0])) * width * height
    middle = width / height if own else 1.0
    low, high = max(middle / ratio, area / height**2), min(middle * ratio, width**2 / area)
    if low <= high:
        proportions = low * (high / low) ** float(numbers[1])
        across, down = math.sqrt(area * proportions), math.sqrt(area / proportions)
    elif width > height * middle:
        across, down = height * middle * ratio, float(height)
    else:
        across, down = float(width), width * ratio / middle
    wide, tall = min(max(round(across), 1), width), min(max(round(down), 1), height)
    left, top = int(float(numbers[2]) * (width - wide + 1)), int(float(numbers[3]) * (height - tall + 1))
    return left, top, left + wide, top + tall


def mirror(picture: np.ndarray) -> np.ndarray:
    """Mirror (3, H, W), left to right."""
    return np.ascontiguousarray(picture[..., ::-1])


def recolour(picture: np.ndarray, numbers: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of (3, H, W) uint8, one after another in a random order.

    Args:
        picture: it.
        numbers: five in [0, 1): the order, and one for each change.
        config: how far each goes.

    Source: torchvision's ColorJitter, whose changes on pictures are these of Pillow.
    """
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    at = dict(zip(_ORDERS[0], (2 * float(number) - 1 for number in numbers[1:5]), strict=True))
    for name in _ORDERS[int(float(numbers[0]) * len(_ORDERS))]:
        reach = getattr(config, name)
        if not reach:
            continue
        if name == "hue":
            image = _turned(image, at[name] * reach)
        else:
            image = _ENHANCERS[name](image).enhance(1 + at[name] * reach)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _turned(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the circle; greys stay."""
    channels = np.asarray(image.convert("HSV")).copy()
    channels[..., 0] += np.uint8(round(turn * 256) % 256)  # around the circle, as bytes do
    return Image.fromarray(channels, mode="HSV").convert("RGB")
