"""The two small frozen teachers of the drawn `scenes`, each trained on its own modality alone.

The image encoder was trained to predict the content of each cell of a drawn scene, the text encoder the attributes
that a caption names; both on scenes of other seeds, by `tools/train_scene_teachers.py`. An embedding is the bag of the
predicted concepts (a shape, a colour, a shape of a colour, a place, a background), each weighted by its probability
and the weight of its family: the cosine grows with what two have in common.

They are of no use outside drawn scenes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cusa.errors import DataError
from cusa.manifests.storage import store

# Letters: B items, K concepts, L words, C channels, G = 3 cells a side.

WEIGHTS = Path(__file__).parents[1] / "weights"
IMAGE_SIDE = 96
GRID = 3
BUCKETS = 2048
"""Rows of the hashed word table; row 0 is padding."""

MOST_WORDS = 64

CELL_HEADS = {"shape": 8, "colour": 8, "size": 2, "texture": 4}
"""The attributes of the thing in a cell, and the number of values of each."""
NUM_BACKGROUNDS = 6

IMAGE_FAMILIES = {
    "shape": 8,
    "colour": 8,
    "texture": 4,
    "shape colour": 64,
    "shape cell": 72,
    "colour cell": 72,
    "background": 6,
}
"""Concepts of an image, and how many of each kind."""

TEXT_FAMILIES = {
    "shape": 8,
    "colour": 8,
    "size": 2,
    "texture": 4,
    "shape colour": 64,
    "column": 3,
    "row": 3,
    "side": 32,
    "count": 3,
    "background": 6,
}
"""Concepts of a caption, and how many of each kind; `side`: a shape left, right, above or below something."""

BATCH = 128


class SceneImageEncoder(nn.Module):
    """A small convolutional network that predicts the content of every cell of a 3 x 3 grid."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, stride in ((16, 2), (32, 2), (64, 2), (64, 1), (96, 1)):
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.cell = nn.Conv2d(channels, 128, 4, stride=4)  # 12 x 12 -> the 3 x 3 cells
        self.things = nn.Conv2d(128, 1 + sum(CELL_HEADS.values()), 1)
        self.background = nn.Linear(channels, NUM_BACKGROUNDS)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of every cell, (B, 1 + sum of heads, row, column), and of the background, (B, 6)."""
        features = self.body(pixels_BCHW)
        return self.things(torch.relu(self.cell(features))), self.background(features.mean((2, 3)))

    def concepts(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the probability of every concept of `IMAGE_FAMILIES`, (B, K)."""
        things, background = self(pixels_BCHW)
        flat = things.flatten(2).transpose(1, 2)  # (B, G*G, heads), cells by rows
        there = torch.sigmoid(flat[..., :1])
        parts = torch.split(flat[..., 1:], list(CELL_HEADS.values()), dim=2)
        values = {name: part.softmax(2) for name, part in zip(CELL_HEADS, parts, strict=True)}
        shape, colour = there * values["shape"], there * values["colour"]
        probabilities = {
            "shape": _anywhere(shape),
            "colour": _anywhere(colour),
            "texture": _anywhere(there * values["texture"]),
            "shape colour": _anywhere((shape[..., None] * values["colour"][..., None, :]).flatten(2)),
            "shape cell": shape.flatten(1),
            "colour cell": colour.flatten(1),
            "background": background.softmax(1),
        }
        return torch.cat([probabilities[name] for name in IMAGE_FAMILIES], dim=1)


class SceneTextEncoder(nn.Module):
    """Hashed words, three convolutions along the sentence, and the maximum and the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS, 48, padding_idx=0)
        self.near = nn.Conv1d(48, 128, 3, padding=1)
        self.wide = nn.Conv1d(128, 128, 3, padding=2, dilation=2)
        self.wider = nn.Conv1d(128, 128, 3, padding=4, dilation=4)
        self.answer = nn.Linear(256, sum(TEXT_FAMILIES.values()))

    def forward(self, words_BL: Tensor) -> Tensor:
        """Return the logit of every concept of `TEXT_FAMILIES`, (B, K); word 0 is padding."""
        mask_B1L = (words_BL != 0)[:, None]
        hidden = torch.relu(self.near(self.words(words_BL).transpose(1, 2))) * mask_B1L
        for layer in (self.wide, self.wider):
            hidden = (hidden + torch.relu(layer(hidden))) * mask_B1L
        mean = hidden.sum(2) / mask_B1L.sum(2).clamp(min=1)
        logits: Tensor = self.answer(torch.cat([hidden.amax(2), mean], dim=1))
        return logits

    def concepts(self, words_BL: Tensor) -> Tensor:
        """Return the probability that each concept of `TEXT_FAMILIES` is named, (B, K)."""
        return torch.sigmoid(self(words_BL))


class SceneImageTeacher:
    """The image encoder of drawn scenes as a teacher.

    Args:
        weights: the file that `tools/train_scene_teachers.py` wrote.

    Raises:
        DataError: if the weights are missing or of another network.
    """

    name = "offline-scenes-image"
    modality = "image"
    width = sum(IMAGE_FAMILIES.values())

    def __init__(self, weights: Path = WEIGHTS / "offline-scenes-image.safetensors") -> None:
        self._model = SceneImageEncoder()
        self._scale_K = load_weights(self._model, weights)
        self._weights = weights

    def encode(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Embed images: (n, width) float32 unit rows."""
        blocks = (pixels(items[start : start + BATCH]) for start in range(0, len(items), BATCH))
        return _embed(self._model.concepts, blocks, self._scale_K)

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return _provenance(self.name, self._weights, f"RGB, {IMAGE_SIDE} x {IMAGE_SIDE} bilinear, -1 to 1")


class SceneTextTeacher:
    """The text encoder of drawn scenes' captions as a teacher.

    Args:
        weights: the file that `tools/train_scene_teachers.py` wrote.

    Raises:
        DataError: if the weights are missing or of another network.
    """

    name = "offline-scenes-text"
    modality = "text"
    width = sum(TEXT_FAMILIES.values())

    def __init__(self, weights: Path = WEIGHTS / "offline-scenes-text.safetensors") -> None:
        self._model = SceneTextEncoder()
        self._scale_K = load_weights(self._model, weights)
        self._weights = weights

    def encode(self, items: Sequence[str]) -> np.ndarray:
        """Embed texts: (n, width) float32 unit rows."""
        blocks = (hash_words(items[start : start + BATCH]) for start in range(0, len(items), BATCH))
        return _embed(self._model.concepts, blocks, self._scale_K)

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return _provenance(self.name, self._weights, f"lower case words, CRC-32 modulo {BUCKETS - 1}")


def load_weights(model: nn.Module, path: Path) -> Tensor:
    """Fill a network from a safetensors file and set it to evaluation.

    Args:
        model: `SceneImageEncoder` or `SceneTextEncoder`.
        path: the file; half-precision numbers become float32.

    Returns:
        The weight of every concept in the embedding, (K,).

    Raises:
        DataError: if the file is missing, broken or of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        scale_K: Tensor = tensors.pop("scale")
        model.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"The teacher's weights {path} are missing or broken ({str(error).splitlines()[0]}). "
            "Install the package again, or make them: python tools/train_scene_teachers.py",
            path=path,
        ) from error
    model.eval()
    return scale_K


def hash_words(texts: Sequence[str]) -> Tensor:
    """Return a row of word numbers a text, zeros at the end: (B, L) int64; the same numbers on every machine."""
    rows = [[1 + crc32(word.encode("utf-8", "replace")) % (BUCKETS - 1) for word in _words(text)] for text in texts]
    numbers = torch.zeros((len(rows), max(1, *map(len, rows))), dtype=torch.int64)
    for row, words in enumerate(rows):
        numbers[row, : len(words)] = torch.tensor(words, dtype=torch.int64)
    return numbers


def _words(text: str) -> list[str]:
    return text.lower().replace(",", " ").replace(".", " ").split()[:MOST_WORDS]


def pixels(images: Iterable[Image.Image]) -> Tensor:
    """Return images as the encoder takes them: (B, 3, 96, 96), -1 to 1."""
    side = (IMAGE_SIDE, IMAGE_SIDE)
    small = [image.convert("RGB").resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0) for image in images]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in small]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def _anywhere(probability_BGK: Tensor) -> Tensor:
    """Return the probability that something holds in at least one cell, the cells taken as independent."""
    return 1 - (1 - probability_BGK).clamp(min=0).prod(1)


@torch.inference_mode()
def _embed(concepts: Callable[[Tensor], Tensor], blocks: Iterable[Tensor], scale_K: Tensor) -> np.ndarray:
    """Return the weighted concepts of all blocks as unit rows."""
    # The small constant keeps a length above zero where no concept is likely.
    rows = [nn.functional.normalize(concepts(block) * scale_K + 1e-6, dim=1) for block in blocks]
    return torch.cat(rows).numpy() if rows else np.zeros((0, len(scale_K)), dtype=np.float32)


def _provenance(name: str, weights: Path, preprocessing: str) -> dict[str, str]:
    return {
        "teacher": name,
        "revision": "1",
        "weights_sha256": store.sha256_file(weights),
        "preprocessing": preprocessing,
    }
