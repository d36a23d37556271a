"""From an encoded image to a bounded number of patches in its own proportions, as SigLIP 2's NaFlex models read it.

Legend: N patches at most, P pixels a side of a patch, h and w patches down and across, H and W the same in pixels.

What a loader caches and a batch stacks is one array a picture, (1 + N, 3 P P) uint8: its first row holds h and w (two
bytes each, the lower first), the others the patches row by row, zeros behind them. No torch here.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from cusa.errors import ConfigError, DataError
from cusa.models.preprocess import MOST_PIXELS, RESAMPLE, Preprocess, normalised_values, picture_only

HEADER = 4
"""Bytes of the first row that hold h and w."""
STRETCH = 16
"""How many times as many patches as it has positions a model may be given: its grid of positions is then resized to
four times as many a side."""

_VARIABLE = ("siglip2", "siglip2_vision_model")
_PROCESSOR = "Siglip2ImageProcessor"


@dataclass(frozen=True)
class NaFlex:
    """How an RGB image becomes patches: scaled to the largest size of whole patches of which N are enough.

    Its proportions stay, but for rounding to whole patches; small pictures are enlarged.

    Attributes:
        max_patches: N.
        patch: P, at least 2.
        resample: `bicubic`, `bilinear`, `lanczos` or `nearest`.
        mean: subtracted from each channel, in units of [0, 1].
        std: divides each channel.

    Source: Tschannen et al., "SigLIP 2", arXiv:2502.14786, section 2.4.2; Dehghani et al., "Patch n' Pack" (NaViT),
    NeurIPS 2023. The pixels are those of transformers' `Siglip2ImageProcessor` with Pillow.
    """

    max_patches: int = 256
    patch: int = 16
    resample: str = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        assert 1 <= self.max_patches < 1 << 16, self.max_patches
        assert self.patch >= 2, self.patch  # the first row has room for the grid
        assert self.resample in RESAMPLE, self.resample

    @property
    def own_proportions(self) -> bool:
        """Whether what is read has the picture's own proportions, so that a crop should have them too."""
        return True

    @property
    def decoded_side(self) -> int:
        """Pixels that both sides of a decoded picture must keep for nothing to be lost."""
        return self.patch * (math.isqrt(self.max_patches) + 2)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return h and w of a picture.

        The scale is searched as transformers does, between a millionth and 100, to a hundred-thousandth. Of pictures
        so long that the smallest scale still gives more than N patches, where transformers fails, the end is given up.

        Args:
            height: of the picture in pixels.
            width: likewise.
        """
        eps = 1e-5
        low, high = eps / 10, 100.0
        while high - low >= eps:
            scale = (low + high) / 2
            if self._patches(height, scale) * self._patches(width, scale) <= self.max_patches:
                low = scale
            else:
                high = scale
        down = min(self._patches(height, low), self.max_patches)
        return down, min(self._patches(width, low), self.max_patches // down)

    def array(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Scale an RGB image and cut it into patches: (1 + N, 3 P P) uint8, what a cache keeps."""
        image = picture_only(image)
        return self.array_of(image, (0, 0, *image.size))

    def array_of(self, image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
        """Do the same with a part of an RGB image.

        Args:
            image: the image.
            box: left, top, right, bottom in pixels, inside it.
        """
        down, across = self.grid(box[3] - box[1], box[2] - box[0])
        size = (across * self.patch, down * self.patch)
        filter_ = RESAMPLE[self.resample]
        # Pillow scales the width first, which would make a far larger picture of a thin one.
        if (box[3] - box[1]) * size[0] > MOST_PIXELS:
            image = image.resize((box[2] - box[0], size[1]), filter_, box=box)
            box = (0, 0, *image.size)
        scaled = image.resize(size, filter_, box=box)
        return self.packed(np.asarray(scaled).transpose(2, 0, 1))

    def packed(self, picture: np.ndarray) -> np.ndarray:
        """Cut (3, H, W) uint8 into patches: (1 + N, 3 P P)."""
        down, across = picture.shape[1] // self.patch, picture.shape[2] // self.patch
        patches = picture.reshape(3, down, self.patch, across, self.patch).transpose(1, 3, 2, 4, 0)
        array = np.zeros((1 + self.max_patches, 3 * self.patch * self.patch), dtype=np.uint8)
        array[0, :HEADER] = (down % 256, down // 256, across % 256, across // 256)
        array[1 : 1 + down * across] = patches.reshape(down * across, -1)
        return array

    def unpacked(self, array: np.ndarray) -> np.ndarray:
        """Put the patches of `packed` together again: (3, H, W) uint8."""
        down, across = (int(low) + 256 * int(high) for low, high in (array[0, :2], array[0, 2:HEADER]))
        patches = array[1 : 1 + down * across].reshape(down, across, self.patch, self.patch, 3)
        return patches.transpose(4, 0, 2, 1, 3).reshape(3, down * self.patch, across * self.patch)

    def normalise(self, patches: np.ndarray) -> np.ndarray:
        """Turn patches (..., 3 P P) uint8 into float32: divided by 255, less the mean, divided by the deviation."""
        flat = patches.reshape(-1, 3)
        out = np.empty(flat.shape, dtype=np.float32)
        for channel, table in enumerate(self._table):
            out[:, channel] = table[flat[:, channel]]
        return out.reshape(patches.shape)

    @cached_property
    def _table(self) -> np.ndarray:
        return normalised_values(self.mean, self.std)

    def in_words(self) -> str:
        """Return how a picture is scaled, as a model card says it."""
        return (
            f"{self.resample}, own proportions, {self.max_patches} patches of {self.patch} x {self.patch} pixels at "
            "most"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON keeps them."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "NaFlex":
        """Make it again from `to_json`.

        Raises:
            DataError: if a field is missing, unknown or impossible.
        """
        try:
            return NaFlex(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (TypeError, KeyError, AssertionError) as error:
            raise DataError(
                f"The preprocessing {dict(fields)!r} is not understood ({error!r}). Save the model again.",
                fields=dict(fields),
            ) from error

    def to_hugging_face(self) -> dict[str, Any]:
        """Return what Hugging Face's image processor has to know."""
        return {
            "image_processor_type": _PROCESSOR,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "patch_size": self.patch,
            "max_num_patches": self.max_patches,
            "resample": int(RESAMPLE[self.resample]),
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    @staticmethod
    def from_hugging_face(fields: Mapping[str, Any], *, patch: int, name: str) -> "NaFlex":
        """Read the `preprocessor_config.json` of a NaFlex model; missing fields get the processor's own values.

        Args:
            fields: the file's content; may be empty.
            patch: P of the model.
            name: of the model, for the message.

        Raises:
            DataError: if the file is that of a model of a fixed size, of other patches, or not understood.
        """
        kind = str(fields.get("image_processor_type", ""))
        if fields and not kind.startswith(_PROCESSOR) and "max_num_patches" not in fields:
            size = fields.get("size")
            raise DataError(
                f"{name!r} reads any number of patches (NaFlex), and its image processor is one of a fixed size "
                f"({kind or 'no type'}, size {size}). Put the preprocessor_config.json of its own release there: "
                f'image_processor_type "{_PROCESSOR}", patch_size {patch}, max_num_patches 256.',
                name=name,
            )
        wanted, given, most = f"patch_size {patch}", fields.get("patch_size", patch), fields.get("max_num_patches", 256)
        if given != patch or not isinstance(most, int) or not 1 <= most < 1 << 16 or not fields.get("do_resize", True):
            raise DataError(
                f"The image processor of {name!r} has patch_size {given!r}, max_num_patches {most!r} and do_resize "
                f"{fields.get('do_resize', True)!r}. Its model reads {wanted}, a max_num_patches of 1 to 65535, and "
                "resized pictures: put the preprocessor_config.json of its own release there.",
                name=name,
            )
        plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3} if not fields.get("do_normalize", True) else {}
        names = {int(value): known for known, value in RESAMPLE.items()}
        return NaFlex(
            max_patches=most,
            patch=patch,
            resample=names.get(int(fields.get("resample", Image.Resampling.BILINEAR)), "bilinear"),
            mean=plain.get("mean") or tuple(fields.get("image_mean", (0.5,) * 3)),
            std=plain.get("std") or tuple(fields.get("image_std", (0.5,) * 3)),
        )

    def _patches(self, side: int, scale: float) -> int:
        """Return how many patches a side of so many pixels has at a scale."""
        return max(1, math.ceil(side * scale / self.patch))


AnyPreprocess = Preprocess | NaFlex
"""How pictures become a student's input: squares of one size, or patches in their own proportions."""


def from_json(fields: Mapping[str, Any]) -> AnyPreprocess:
    """Make a preprocessing again from its `to_json`.

    Raises:
        DataError: if a field is missing, unknown or impossible.
    """
    return NaFlex.from_json(fields) if "max_patches" in fields else Preprocess.from_json(fields)


def from_hugging_face(fields: Mapping[str, Any], config: Any, *, name: str) -> AnyPreprocess:
    """Read a model's image processor: of a fixed size, or NaFlex.

    Args:
        fields: content of `preprocessor_config.json`; may be empty.
        config: the configuration of the vision model.
        name: of the model, for messages.

    Raises:
        DataError: if processor and model do not belong together.
    """
    if is_variable(config):
        patch = config.patch_size
        return NaFlex.from_hugging_face(fields, patch=patch if isinstance(patch, int) else int(patch[0]), name=name)
    if "max_num_patches" in fields:
        raise DataError(
            f"{name!r} is a {config.model_type} of a fixed size, and its image processor one of any number of patches "
            "(NaFlex). Put the preprocessor_config.json of its own release there.",
            name=name,
        )
    side = getattr(config, "image_size", None) or 224
    return Preprocess.from_hugging_face(fields, image_size=side if isinstance(side, int) else int(side[0]))


def is_variable(config: Any) -> bool:
    """Return whether a vision model reads any number of patches, by its configuration or that of its dual encoder."""
    return str(getattr(config, "model_type", "")) in _VARIABLE


def choose_patches(preprocess: AnyPreprocess, most: int, config: Any, *, key: str, name: str) -> AnyPreprocess:
    """Return a preprocessing with another N.

    Args:
        preprocess: the model's own.
        most: N; 0 = as it is.
        config: the configuration of the vision model.
        key: of the recipe, for messages.
        name: of the model, likewise.

    Raises:
        ConfigError: if the model reads squares of one size, or its grid of positions cannot be resized to so many.
    """
    if not most:
        return preprocess
    if not isinstance(preprocess, NaFlex):
        raise ConfigError(
            f"{key} is {most}, and {name!r} reads squares of {preprocess.size} pixels: only NaFlex models (such as "
            f"google/siglip2-base-patch16-naflex) read a chosen number of patches. Set {key}=0.",
            key=key,
        )
    positions = int(config.num_patches)
    if most > STRETCH * positions:
        raise ConfigError(
            f"{key} is {most}, and {name!r} has positions for {positions} patches, which can be resized to "
            f"{STRETCH * positions} at most. Set it to at most that, or to 0 for the model's own "
            f"{preprocess.max_patches}.",
            key=key,
        )
    return replace(preprocess, max_patches=most)
