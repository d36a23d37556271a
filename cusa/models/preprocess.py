"""From an encoded image to a student's input: one way, shared by training, evaluation and the teachers.

S pixels a side of the square the student reads. No torch here: arrays in, arrays out.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cusa.errors import DataError
from cusa.manifests.storage import arrays

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError)
"""What Pillow raises for bytes that are no whole image; some of it surprising, all of it seen on broken files."""

MOST_PIXELS = 1 << 24
"""Pixels that scaling may make on the way; thin pictures would make more."""
_NO_CROP_PCT = 384
"""Pixels a side from which Hugging Face's processor of ConvNeXt squashes."""
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
"""Pillow's filters by the names that a preprocessing has for them."""


def decode_rgb(data: bytes, *, max_pixels: int = 200_000_000, draft: int = 0) -> Image.Image:
    """Decode an image the one way of this package: upright, three channels of 8 bits.

    The EXIF orientation is applied; greyscale, palette and CMYK become RGB; 16-bit greys keep their upper 8 bits;
    transparent parts are laid over white. The authors' release only calls `convert("RGB")`, which differs for rotated,
    transparent and 16-bit images; for all others the pixels are equal.

    Args:
        data: a whole JPEG, PNG, WebP, GIF, BMP or TIFF file.
        max_pixels: larger images are refused before they are decoded.
        draft: let the JPEG decoder itself scale down, to 1/2, 1/4 or 1/8, as far as both sides keep this many pixels:
            faster, but not the pixels that full decoding and resizing give. 0 = full size.

    Returns:
        A loaded RGB image.

    Raises:
        OSError, SyntaxError, ValueError...: one of `UNDECODABLE`, if the bytes are no whole image or too large a one.
    """
    with warnings.catch_warnings():
        # Pillow warns about large pictures and odd metadata; the size is checked below, the metadata does not matter.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
        except UnidentifiedImageError as error:
            raise ValueError("the bytes are no image that Pillow knows") from error  # its own words name an address
        if image.width * image.height > max_pixels:
            raise ValueError(f"the image has {image.width} x {image.height} pixels, {max_pixels} allowed")
        if draft:
            image.draft(None, (draft, draft))  # does nothing for other formats
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "RGB" and "transparency" not in upright.info:
            return upright
        if upright.mode.startswith("I"):
            grey = np.clip(np.asarray(upright, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return upright.convert("RGB")


def decode(data: bytes, *, draft: int = 0) -> Image.Image | np.ndarray:
    """Decode a shard's member: an image as `decode_rgb` gives it, or the array of a `.npy` member.

    Args:
        data: the whole member.
        draft: of images, as in `decode_rgb`.

    Raises:
        OSError, ValueError...: one of `UNDECODABLE`; for an array also if it holds objects instead of numbers.
    """
    if not data.startswith(b"\x93NUMPY"):
        return decode_rgb(data, draft=draft)
    array: np.ndarray = arrays.parse(data)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"the array holds {array.dtype}, or numbers that are not finite")
    return array


def normalised_values(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return what each of the 256 possible values of a channel becomes: (3, 256) float32, one row a channel.

    Looked up, they cost one pass and are the same everywhere.
    """
    value = np.arange(256, dtype=np.float32) / np.float32(255)
    means, deviations = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)
    return (value - means[:, None]) / deviations[:, None]


@dataclass(frozen=True)
class Preprocess:
    """How an RGB image becomes a student's input.

    With the defaults this is CLIP's own preprocessing to the pixel: bicubic resize of the shorter side (the longer one
    rounded down), centre crop whose offset rounds half to even, as the reference computes it. Hugging Face's processor
    rounds that offset down, one pixel off for about a fifth of COCO.

    Attributes:
        size: S, pixels a side.
        fit: `crop` keeps the proportions and cuts the centre; `squash` scales both sides to S.
        resize: pixels of the shorter side before cropping; 0 = S.
        resample: `bicubic`, `bilinear`, `lanczos` or `nearest`.
        mean: subtracted from each channel, in units of [0, 1].
        std: divides each channel.
    """

    size: int = 224
    fit: str = "crop"
    resize: int = 0
    resample: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        assert self.fit in ("crop", "squash"), self.fit
        assert self.resample in RESAMPLE, self.resample
        assert self.resize == 0 or self.resize >= self.size, (self.resize, self.size)

    @property
    def own_proportions(self) -> bool:
        """Whether a crop should have the picture's own proportions: a square is then made of any of them."""
        return self.fit == "squash"

    @property
    def decoded_side(self) -> int:
        """Pixels that both sides of a decoded picture must keep for nothing to be lost."""
        return self.resize or self.size

    def array(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Scale and cut an RGB image: (3, S, S) uint8, what a cache keeps."""
        image = picture_only(image)
        width, height = image.size
        filter_ = RESAMPLE[self.resample]
        if self.fit == "squash":
            # Pillow may scale the width first, which would make a far larger picture of a thin one.
            if height * self.size > MOST_PIXELS:
                image = image.resize((width, self.size), filter_)
            cut = image.resize((self.size, self.size), filter_)
        else:
            short = self.resize or self.size
            wide, tall = int(short * width / height), int(short * height / width)
            scaled = (short, tall) if width <= height else (wide, short)
            left, top = round((scaled[0] - self.size) / 2), round((scaled[1] - self.size) / 2)
            if scaled[0] * scaled[1] > MOST_PIXELS:
                # Only what the crop needs. Not for all pictures: what Pillow rounds on the way differs.
                across, down = width / scaled[0], height / scaled[1]
                box = (left * across, top * down, (left + self.size) * across, (top + self.size) * down)
                cut = image.resize((self.size, self.size), filter_, box=box)
            else:
                cut = image.resize(scaled, filter_).crop((left, top, left + self.size, top + self.size))
        return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))

    def array_of(self, image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
        """Scale a part of an RGB image to the whole square: (3, S, S) uint8.

        Args:
            image: the image.
            box: left, top, right, bottom in pixels, inside it.
        """
        filter_ = RESAMPLE[self.resample]
        if (box[3] - box[1]) * self.size > MOST_PIXELS:  # as in `array`
            image = image.resize((box[2] - box[0], self.size), filter_, box=box)
            box = (0, 0, *image.size)
        cut = image.resize((self.size, self.size), filter_, box=box)
        return np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))

    def packed(self, picture: np.ndarray) -> np.ndarray:
        """Return what a cache keeps of a picture (3, S, S): itself; see `cusa.models.naflex` for others."""
        return picture

    def unpacked(self, array: np.ndarray) -> np.ndarray:
        """Return the picture (3, S, S) uint8 that a cache keeps."""
        return array

    def in_words(self) -> str:
        """Return how a picture is scaled, as a model card says it."""
        fit = "squashed" if self.fit == "squash" else f"shorter side to {self.resize or self.size}, cut"
        return f"{self.resample}, {fit} to {self.size} x {self.size}"

    def normalise(self, square: np.ndarray) -> np.ndarray:
        """Turn (..., 3, S, S) uint8 into float32: divided by 255, less the mean, divided by the deviation."""
        out = np.empty(square.shape, dtype=np.float32)
        for channel, table in enumerate(self._table):
            np.take(table, square[..., channel, :, :], out=out[..., channel, :, :])
        return out

    @cached_property
    def _table(self) -> np.ndarray:
        return normalised_values(self.mean, self.std)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON keeps them."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Preprocess":
        """Make it again from `to_json`.

        Raises:
            DataError: if a field is missing, unknown or impossible.
        """
        try:
            return Preprocess(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (TypeError, KeyError, AssertionError) as error:
            raise DataError(
                f"The preprocessing {dict(fields)!r} is not understood ({error!r}). Save the model again.",
                fields=dict(fields),
            ) from error

    def to_hugging_face(self) -> dict[str, Any]:
        """Return what Hugging Face's image processor has to know; it rounds a crop's offset down, ours half to even."""
        side = {"height": self.size, "width": self.size}
        crop = self.fit == "crop"
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.resize or self.size} if crop else side,
            "do_center_crop": crop,
            **({"crop_size": side} if crop else {}),
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "resample": int(RESAMPLE[self.resample]),
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    @staticmethod
    def from_timm(fields: Mapping[str, Any]) -> "Preprocess":
        """Read the `pretrained_cfg` of a timm model: shorter side scaled to size / crop_pct, centre cut."""
        size = int(fields["input_size"][-1])
        squash = fields.get("crop_mode") == "squash"
        return Preprocess(
            size=size,
            fit="squash" if squash else "crop",
            resize=0 if squash else int(size / (fields.get("crop_pct") or 1)),
            resample=str(fields.get("interpolation") or "bicubic"),
            mean=tuple(fields["mean"]),
            std=tuple(fields["std"]),
        )

    @staticmethod
    def from_hugging_face(fields: Mapping[str, Any], *, image_size: int) -> "Preprocess":
        """Read a Hugging Face `preprocessor_config.json`; missing fields get CLIP's values.

        A `crop_pct` (ConvNeXt, ResNet) is read as its processor does: below 384 pixels the shorter side is scaled to
        size / crop_pct and the centre cut, from there on the picture is squashed.

        Args:
            fields: the file's content; may be empty.
            image_size: S where the file does not give it.
        """
        if fields.get("crop_pct"):
            size = _side(fields.get("size")) or image_size
            fit: dict[str, Any] = {"size": size, "crop_size": size, "do_center_crop": True}
            if size < _NO_CROP_PCT:
                fit["size"] = {"shortest_edge": int(size / fields["crop_pct"])}
            else:
                fit = {"size": {"height": size, "width": size}}
            fields = {**{name: value for name, value in fields.items() if name != "crop_pct"}, **fit}
        crop = _side(fields.get("crop_size")) if fields.get("do_center_crop", "shortest_edge" in _sides(fields)) else 0
        size = crop or _side(fields.get("size")) or image_size
        shorter = _side(fields.get("size")) or size
        squash = not crop and "shortest_edge" not in _sides(fields) and bool(fields)
        names = {int(value): name for name, value in RESAMPLE.items()}
        return Preprocess(
            size=size,
            fit="squash" if squash else "crop",
            resize=shorter if not squash and shorter > size else 0,
            resample=names.get(int(fields.get("resample", Image.Resampling.BICUBIC)), "bicubic"),
            mean=tuple(fields.get("image_mean", CLIP_MEAN)),
            std=tuple(fields.get("image_std", CLIP_STD)),
        )


def picture_only(image: Image.Image | np.ndarray) -> Image.Image:
    """Return an RGB image as it is, and refuse the array of a `.npy` member.

    Raises:
        DataError: if it is an array.
    """
    if isinstance(image, np.ndarray):
        raise DataError(
            f"The shards hold arrays of shape {image.shape} (region features), and this student reads pictures. "
            "Set student.kind=sgraf, or shard the pictures."
        )
    assert image.mode == "RGB", image.mode
    return image


def _sides(fields: Mapping[str, Any]) -> Mapping[str, int]:
    size = fields.get("size")
    return size if isinstance(size, dict) else {"shortest_edge": size} if isinstance(size, int) else {}


def _side(size: Any) -> int:
    if isinstance(size, dict):
        return int(size.get("shortest_edge") or size.get("height") or 0)
    return int(size or 0)
