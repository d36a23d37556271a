"""Faults of single pictures: blank, dark, bright, blurred, odd aspect, tiny, broken, copies of others.

The measures are CleanVision's (Apache-2.0, github.com/cleanlab/cleanvision), computed while a JPEG is decoded at a
smaller scale; docs/decisions/075 says why the library itself is not used.
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter

from cusa.errors import DataError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.models.preprocess import UNDECODABLE
from cusa.pipeline.own_pairs.caption_faults import Fault

_SIDE = 160  # pixels that the shorter side keeps while decoding
_BLANK = 0.5  # bits of entropy of the grey values (8 at most)
_DARK = 0.15  # brightness of the picture's brightest hundredth, 0 to 1
_BRIGHT = 0.85  # brightness of its darkest twentieth
_BLURRED = 8.0  # standard deviation of the edges' grey values, 0 to 255
_ODD = 0.25  # shorter side over longer side
_TINY = 32  # pixels
_FEATURES = "npy"


def picture_faults(split: Split, *, on_event: OnEvent = ignore) -> list[Fault]:
    """Return the faults of a split's pictures, in the order of their rows; none for texts alone or features.

    Args:
        split: the split.
        on_event: called with every hundredth picture.
    """
    number, faults = split.num_images, []
    columns = (split.samples[name].to_pylist() for name in ("ext", "width", "height", "sha256", "image_bytes"))
    exts, widths, heights, digests, sizes = columns
    copies = Counter(digest for digest, size in zip(digests, sizes, strict=True) if size)
    what = f"pictures of {split.name}"
    for row in range(number):
        if row % 100 == 0:
            on_event(what, row, number)
        if not sizes[row] or exts[row] == _FEATURES:
            continue
        faults += [Fault(row, "image", *rest) for rest in _of_size(widths[row], heights[row])]
        if copies[digests[row]] > 1:
            others = copies[digests[row]] - 1
            faults.append(Fault(row, "image", "duplicate", float(others), f"the same bytes as {others} other images"))
        try:
            grey = _grey(split.image_bytes(row))
        except (DataError, *UNDECODABLE) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            faults.append(Fault(row, "image", "broken", 0.0, reason[:200]))
            continue
        faults += [Fault(row, "image", *rest) for rest in _of_pixels(grey)]
    on_event(what, number, number)
    return faults


def _grey(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        image.draft("L", (_SIDE, _SIDE))
        grey = image.convert("L")
    scale = _SIDE / min(grey.size)
    if scale < 1:
        grey = grey.resize((max(1, round(grey.width * scale)), max(1, round(grey.height * scale))))
    return grey


def _of_size(width: int, height: int) -> Iterator[tuple[str, float, str]]:
    aspect = min(width, height) / max(width, height, 1)
    if aspect < _ODD:
        yield "odd-aspect", aspect, f"{width} x {height} pixels"
    if min(width, height) < _TINY:
        yield "tiny", float(min(width, height)), f"{width} x {height} pixels"


def _of_pixels(grey: Image.Image) -> Iterator[tuple[str, float, str]]:
    entropy = grey.entropy()
    darkest, brightest = np.quantile(np.asarray(grey), [0.05, 0.99]) / 255
    if entropy < _BLANK:
        yield "blank", float(entropy), f"{entropy:.2f} bits a pixel"
        return
    if brightest < _DARK:
        yield "dark", float(brightest), f"its brightest hundredth has {brightest:.0%} of white"
    if darkest > _BRIGHT:
        yield "bright", float(darkest), f"its darkest twentieth has {darkest:.0%} of white"
    edges = float(np.asarray(grey.filter(ImageFilter.FIND_EDGES), dtype=np.float32)[1:-1, 1:-1].std())
    if edges < _BLURRED:
        yield "blurred", edges, f"edges of {edges:.1f} grey values"
