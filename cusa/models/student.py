"""The interface of a model that learns, and how a name, a folder or a run becomes one.

Legend: B pairs or items, D width of an embedding, C H W channels and pixels of an input.
"""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.errors import ConfigError, DataError
from cusa.manifests import store
from cusa.models.config import StudentConfig

Space = Literal["cross", "uni"]
"""`cross`: images and texts side by side. `uni`: images among images, texts among texts (what USA teaches)."""

CARD = "student.json"
"""In every model folder: which class reads it, its preprocessing, and which heads serve which task."""


class Student(nn.Module, abc.ABC):
    """A model of images and texts that CUSA can train; someone else's joins by these methods.

    The reading side (`image_array`, `tokenize`) is apart from the computing side, so that a loader's threads can do it
    and so that decoded images can be kept as bytes.
    """

    name: str
    """For people: what it started from."""
    has_uni: bool
    """Whether it has uni-modal heads; without, the `uni` space is the `cross` space."""
    width: int
    """D of the cross-modal embedding."""
    truncated: int = 0
    """Captions that `tokenize` has cut so far because they were longer than the student reads."""

    @abc.abstractmethod
    def image_array(self, image: Image.Image) -> np.ndarray:
        """Turn an RGB image into the array a loader keeps, always of the same shape and type; uint8 where possible."""

    @abc.abstractmethod
    def pixels(self, arrays: Tensor) -> Tensor:
        """Turn a batch of such arrays (B, ...) into the float input (B, C, H, W), on the arrays' device."""

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions as the student was trained: named (B, tokens) tensors on the CPU."""

    @abc.abstractmethod
    def encode_image(self, pixels_BCHW: Tensor, space: Space = "cross") -> Tensor:
        """Embed images: (B, D) float32 rows of unit length."""

    @abc.abstractmethod
    def encode_text(self, tokens: dict[str, Tensor], space: Space = "cross") -> Tensor:
        """Embed captions: (B, D) float32 rows of unit length."""

    @abc.abstractmethod
    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed pairs for the loss, each tower run once.

        Returns:
            `image`, `text` (B, D), and with uni-modal heads `image_uni`, `text_uni`: unit rows in float32.
        """

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything `load` needs, whole."""

    def image_transform(self, image: Image.Image) -> Tensor:
        """Turn one RGB image into the float input (C, H, W)."""
        return self.pixels(torch.from_numpy(self.image_array(image))[None])[0]

    def space_of(self, task: Literal["cross-modal", "uni-modal"]) -> tuple[Space, str]:
        """Return the space that serves a task, and how to say so beside a number."""
        if task == "cross-modal":
            return "cross", "cross"
        return ("uni", "uni") if self.has_uni else ("cross", "cross (no uni-modal head)")


def create(config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> Student:
    """Make a student that is about to be trained.

    Args:
        config: which and how large.
        captions: of the training split, as the data set has them; a student from scratch takes its words from them.
        uni: whether the loss needs uni-modal heads; decides where the configuration says `auto`.
        seed: of the new weights. The towers of a seed are equal whatever heads stand on them.

    Returns:
        The student, on the CPU, in training mode.

    Raises:
        ConfigError: if the heads that the loss needs are forbidden.
        DataError: if the name or folder holds no such model.
    """
    from cusa.models.dual_encoder import DualEncoder

    if uni and config.uni_head == "never":
        raise ConfigError(
            "loss.beta is not 0, but student.uni_head is 'never': USA needs the uni-modal heads. "
            "Set student.uni_head=auto or loss.beta=0.",
            key="student.uni_head",
        )
    return DualEncoder.create(config, captions=captions, uni=uni or config.uni_head == "always", seed=seed)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Student:
    """Load a trained student.

    Args:
        name: a run folder, a model folder that `save` wrote, a Hugging Face folder of a dual encoder, a hub name, or a
            checkpoint file in OpenAI's CLIP format (the authors' CUSA checkpoints too).
        device: where its weights go.

    Returns:
        The student in evaluation mode.

    Raises:
        DataError: if nothing there can be loaded.
    """
    from cusa.models.dual_encoder import DualEncoder

    kinds = {"dual-encoder": DualEncoder}
    path = Path(name).expanduser()
    student: Student
    folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
    if folder is not None:
        kind = store.read_json(folder / CARD).get("kind")
        if kind not in kinds:
            raise DataError(
                f"{folder / CARD} describes a student of kind {kind!r}; this version knows {', '.join(kinds)}.",
                path=folder,
            )
        student = kinds[kind].load(folder)
    elif path.is_file():
        student = DualEncoder.from_checkpoint(path)
    elif path.is_dir() and not (path / "config.json").is_file():
        trained = " Its training has not yet saved a model." if (path / "checkpoints").is_dir() else ""
        raise DataError(
            f"{path} is neither a run nor a model: it has no {CARD}, model/{CARD} or config.json.{trained} Give the "
            "--out of a `cusa train`, a model folder, or a hub name.",
            path=path,
        )
    elif not path.exists() and (path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1):
        raise DataError(
            f"{path} does not exist. Give the --out of a `cusa train`, a model folder, or a hub name.", path=path
        )
    else:
        student = DualEncoder.from_hugging_face(str(path) if path.is_dir() else str(name))
    return student.to(device).eval()
