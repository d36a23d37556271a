"""The interface of a model that learns, and how a name, a folder or a run becomes one.

Legend: B pairs or items, D width of an embedding, C H W channels and pixels of an input.
"""

import abc
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests import store
from cusa.models.config import StudentConfig

Space = Literal["cross", "uni"]
"""`cross`: images and texts side by side. `uni`: images among images, texts among texts (what USA teaches)."""

KINDS = {
    "dual-encoder": "cusa.models.dual_encoder:DualEncoder",
    "sgraf": "cusa.models.sgraf:Sgraf",
    "x2vlm": "cusa.models.x2vlm:X2vlm",
    "blip": "cusa.models.blip:Blip",
}
"""Kinds of students and the class of each; any other kind is a `module:Class` of someone else's."""

CARD = "student.json"
"""In every model folder: which class reads it, its preprocessing, and which heads serve which task."""


class Student(nn.Module, abc.ABC):
    """A model of images and texts that CUSA can train; someone else's joins by the abstract methods.

    A dual encoder needs no more than these: its loss is InfoNCE, its score a cosine. What others need besides is
    switched on by five class attributes, each with the methods that it asks for; see docs/students.md.

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

    has_own_loss: bool = False
    """Whether `base_loss` stands where InfoNCE would."""
    soft_labels: Literal["similarity", "matching"] = "similarity"
    """Where CSA acts: on the batch's similarities, or on the labels of a matching loss (`base_loss` gets them)."""
    scores_pairs: bool = False
    """Whether its score is `pair_scores`, not a cosine; `forward` then gives `similarity` (B, B)."""
    reranks: bool = False
    """Whether `match` scores the first candidates once more."""
    embeds_parts: bool = False
    """Whether `embed` makes embeddings of the parts: a tower then runs once for both spaces and for `match`."""

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces it has rows of its own for."""
        return ("cross", "uni") if self.has_uni else ("cross",)

    @abc.abstractmethod
    def image_array(self, image: Image.Image) -> np.ndarray:
        """Turn an RGB image into the array a loader keeps, always of the same shape and type; uint8 where possible."""

    @abc.abstractmethod
    def pixels(self, arrays: Tensor) -> Tensor:
        """Turn a batch of such arrays (B, ...) into the float input (B, C, H, W), on the arrays' device."""

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions as the student was trained: named (B, tokens) tensors on the CPU."""

    def encode_image(self, pixels_BCHW: Tensor, space: Space = "cross") -> Tensor:
        """Embed images: (B, D) float32 rows of unit length; for a student without `embeds_parts` to define."""
        return self.embed(self.image_parts(pixels_BCHW), space, "image")

    def encode_text(self, tokens: dict[str, Tensor], space: Space = "cross") -> Tensor:
        """Embed captions: (B, D) float32 rows of unit length; for a student without `embeds_parts` to define."""
        return self.embed(self.text_parts(tokens), space, "text")

    @abc.abstractmethod
    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed pairs for the loss, each tower run once.

        Returns:
            `image`, `text` (B, D), and with uni-modal heads `image_uni`, `text_uni`: unit rows in float32.
        """

    def base_loss(
        self, out: Mapping[str, Any], *, image_ids: Tensor, match_labels: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the model's own loss from what `forward` gave; needed with `has_own_loss`.

        Args:
            out: of `forward`; may hold more than the loss reads.
            image_ids: (B,), equal for pairs of the same image.
            match_labels: with `soft_labels = "matching"` and a weight of CSA, (B, B) labels in [0, 1] of image i with
                text j in the image-to-text direction, and of text i with image j in the other.

        Returns:
            Named 0-d terms whose sum is the loss.
        """
        raise NotImplementedError(f"{type(self).__name__} says has_own_loss and has no base_loss")

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute what `pair_scores`, `match` or `embed` reads of images, each (B, ...); needed with any of them."""
        raise NotImplementedError(f"{type(self).__name__} has no image_parts")

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute what `pair_scores`, `match` or `embed` reads of captions, each (B, ...); needed with any of them."""
        raise NotImplementedError(f"{type(self).__name__} has no text_parts")

    def embed(self, parts: Mapping[str, Tensor], space: Space, end: Literal["image", "text"]) -> Tensor:
        """Make float32 unit rows (B, D) of the parts of images or of captions; needed with `embeds_parts`."""
        raise NotImplementedError(f"{type(self).__name__} says embeds_parts and has no embed")

    def pair_scores(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Score all pairs of I images and C captions: (I, C); needed with `scores_pairs`."""
        raise NotImplementedError(f"{type(self).__name__} says scores_pairs and has no pair_scores")

    def match(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Return (P, 2) logits of image i with caption i, column 1 saying yes; needed with `reranks`."""
        raise NotImplementedError(f"{type(self).__name__} says reranks and has no match")

    def tower(self, end: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the beginnings of the names of a tower's parameters, heads apart.

        They are what `train.freeze` means by `image` or `text`, and where `student.lora` looks for layers.
        """
        return ()

    def remarks(self) -> tuple[str, ...]:
        """Return full sentences a person should read: captions cut, words unknown."""
        if not self.truncated:
            return ()
        return (f"{self.truncated} captions (counted each time they were read) were longer than the student reads.",)

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything `load` needs, whole."""

    def image_transform(self, image: Image.Image) -> Tensor:
        """Turn one RGB image into the float input (C, H, W)."""
        arrays = np.stack([self.image_array(image)])  # a copy: the array may be read-only
        return self.pixels(torch.from_numpy(arrays))[0]

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
        ConfigError: if the heads that the loss needs are forbidden, or the kind is unknown.
        DataError: if the name or folder holds no such model.
    """
    if uni and config.uni_head == "never":
        raise ConfigError(
            "loss.beta is not 0, but student.uni_head is 'never': USA needs the uni-modal heads. "
            "Set student.uni_head=auto or loss.beta=0.",
            key="student.uni_head",
        )
    made = kind_class(config.kind).create(config, captions=captions, uni=uni or config.uni_head == "always", seed=seed)
    if config.lora.rank:
        from cusa.models import lora

        lora.add(made, config.lora, seed=seed)
    if config.base_loss == "infonce":
        made.has_own_loss = False
        made.soft_labels = "similarity"
    return made


def kind_class(kind: str) -> Any:
    """Return the class of a kind of student.

    Args:
        kind: one of `KINDS`, or `module:Class`, a class of someone else's with `create` and `load`; naming it runs
            that module's code.

    Raises:
        ConfigError: if there is no such kind, module or class.
    """
    place = KINDS.get(kind, kind)
    module, colon, name = place.partition(":")
    if not colon:
        raise ConfigError(
            f"There is no kind of student {kind!r}. {nearest(kind, KINDS)}, or module:Class.", key="student.kind"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The student {kind!r} is not there: {error}. Write module:Class, the module being importable from where "
            "you start (PYTHONPATH=.).",
            key="student.kind",
        ) from error
    for method in ("create", "load"):
        if not callable(getattr(found, method, None)):
            raise ConfigError(f"The student {kind!r} has no method {method}; see docs/students.md.", key="student.kind")
    return found


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

    path = Path(name).expanduser()
    student: Student
    folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
    if folder is not None:
        kind = store.read_json(folder / CARD).get("kind")
        try:
            found = kind_class(str(kind))
        except ConfigError as error:
            raise DataError(f"{folder / CARD} describes a student of kind {kind!r}. {error}", path=folder) from error
        student = found.load(folder)
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
