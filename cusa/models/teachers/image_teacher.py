"""A frozen torch network of images as a teacher: one way for Unicom and for Hugging Face's vision models.

Letters: B images, S pixels a side, D width of the embedding.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.models.device import Device, unit_rows
from cusa.models.naflex import AnyPreprocess, NaFlex
from cusa.models.pixels import normalise

_BATCH = 64  # images a forward pass where the caller does not cut batches itself


class ImageTeacher:
    """A network that embeds images.

    Args:
        name: the folder's name of its tables.
        network: what holds the weights.
        features: normalised pixels, (B, 3, S, S) or as `cusa.models.pixels.normalise` gives them of a NaFlex, to (B, D)
            features, through `network`.
        width: D.
        preprocess: how an image becomes pixels.
        provenance: teacher, revision and weights_sha256.
        device: where it runs.
    """

    modality = "image"

    def __init__(
        self,
        *,
        name: str,
        network: nn.Module,
        features: Callable[[Tensor], Tensor],
        width: int,
        preprocess: AnyPreprocess,
        provenance: Mapping[str, str],
        device: Device,
    ) -> None:
        self.name = name
        self.width = width
        self._device = device
        self._network = device.place(network)
        self._features = features
        self._preprocess = preprocess
        self._provenance = dict(provenance)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device.torch)[:, None, None]
            for values in (preprocess.mean, preprocess.std)
        )

    @property
    def precision(self) -> str:
        """Numbers of the matrix products."""
        return self._device.precision

    def prepare(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Scale and cut RGB images into a batch of the preprocessing's arrays; threads may do it ahead of `embed`."""
        return np.stack([self._preprocess.array(image) for image in items])

    @torch.inference_mode()
    def embed(self, prepared: np.ndarray, *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned in one pass: (B, D) float32 unit rows.

        Args:
            prepared: (B, 3, S, S) uint8, or patches.
            exact: calculate in float32 whatever the precision.
        """
        squares = self._device.send(prepared)
        if isinstance(self._preprocess, NaFlex):
            pixels = normalise(squares, self._preprocess)
        else:
            # The order of these three is the reference's: the numbers are equal to the bit.
            pixels = (squares.to(torch.float32) / 255).sub_(self._mean).div_(self._std)
        with self._device.autocast(exact=exact):
            return unit_rows(self._features(pixels))

    def encode(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Embed RGB images: (n, D) float32 unit rows."""
        starts = range(0, len(items), _BATCH)
        blocks = [self.embed(self.prepare(items[start : start + _BATCH])) for start in starts]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.width), dtype=np.float32)

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        how = self._preprocess
        if isinstance(how, NaFlex):
            scaled = how.in_words()
        else:
            cut = f"shorter side to {how.resize or how.size}, centre" if how.fit == "crop" else "to"
            scaled = f"{how.resample} {cut} {how.size} x {how.size}"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
        return {
            **self._provenance,
            "preprocessing": f"RGB, {scaled}, mean {mean}, std {std}",
            "precision": self.precision,
        }
