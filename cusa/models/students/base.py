"""The interface of a model that learns.

Legend: B pairs or items, D width of an embedding, C H W channels and pixels of an input.
"""

import abc
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.errors import ConfigError
from cusa.manifests.words import counted
from cusa.models.config import StudentConfig
from cusa.models.features import FeatureTable
from cusa.models.pixels import Patches

Space = Literal["cross", "uni"]
"""`cross`: images and texts side by side. `uni`: images among images, texts among texts (what USA teaches)."""


_COUNTING = threading.Lock()
CARD = "student.json"
"""In every model folder: its class, its preprocessing, and the heads of each task."""


class Student(nn.Module, abc.ABC):
    """A model of images and texts that CUSA can train; another package's student defines the abstract methods.

    A dual encoder needs no more than these: its loss is InfoNCE, its score a cosine. Five class attributes switch on
    what other models need, each with methods of its own; see docs/students.md.

    Reading (`image_array`, `tokenize`) is separate from computing, so that a loader's threads can do it and decoded
    images can be cached as bytes.
    """

    name: str
    """What it started from, for display."""
    has_uni: bool
    """Whether it has uni-modal heads; without, the `uni` space is the `cross` space."""
    width: int
    """D of the cross-modal embedding."""
    notes: tuple[str, ...] = ()
    """Sentences on how its weights were read, for the user."""
    read: int = 0
    """Captions that `tokenize` has read so far, each as often as it was."""
    truncated: int = 0
    """Of these, how many had more tokens than the student reads."""
    shortened: int = 0
    """Of these, how many had more words than the clean-up keeps."""

    features: Mapping[str, FeatureTable] = {}
    """`image`, `text` -> table whose rows (B, W) it takes as pixels, or as the tokens `features`, where a split has
    it."""
    trusted: frozenset[str] = frozenset()
    """Classes outside this package that it may load for what its folder names; see `cusa.models.student.load`."""

    has_own_loss: bool = False
    """Whether `base_loss` replaces InfoNCE."""
    soft_labels: Literal["similarity", "matching"] = "similarity"
    """Where CSA acts: on the batch's similarities, or on the labels of a matching loss (passed to `base_loss`)."""
    scores_pairs: bool = False
    """Whether its score is `pair_scores`, not a cosine; `forward` then gives `similarity` (B, B)."""
    pooled_weight: float = 0.0
    """Of one that scores pairs: weight of InfoNCE over its embeddings beside that over its scores; `forward` then gives
    `image` and `text` too. Above 0 they find candidates, for an index and for re-ranking."""
    reranks: bool = False
    """Whether `match` scores the first candidates again."""
    embeds_parts: bool = False
    """Whether `embed` computes embeddings from the parts: a tower then runs once for both spaces and for `match`."""

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces with embeddings of their own."""
        return ("cross", "uni") if self.has_uni else ("cross",)

    @abc.abstractmethod
    def image_array(self, image: Image.Image) -> np.ndarray:
        """Turn an RGB image into the array that a loader caches, of one shape and type; uint8 where possible.

        A model that reads pictures in their own proportions packs them into one shape: see `cusa.models.naflex`.
        """

    @abc.abstractmethod
    def pixels(self, arrays: Tensor) -> Tensor:
        """Turn a batch of such arrays (B, ...) into the float input (B, C, H, W), or (B, ...) of another kind, on the
        arrays' device.
        """

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions as the student was trained: named (B, tokens) tensors on the CPU."""

    def encode_image(self, pixels_BCHW: Tensor, space: Space = "cross") -> Tensor:
        """Embed images: (B, D) float32 rows of unit length. Students without `embeds_parts` override it."""
        return self.embed(self.image_parts(pixels_BCHW), space, "image")

    def encode_text(self, tokens: dict[str, Tensor], space: Space = "cross") -> Tensor:
        """Embed captions: (B, D) float32 rows of unit length. Students without `embeds_parts` override it."""
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
        """Compute the model's own loss from the result of `forward`; required by `has_own_loss`.

        Args:
            out: the result of `forward`; may hold more than the loss reads.
            image_ids: (B,), equal for pairs of the same image.
            match_labels: with `soft_labels = "matching"` and a weight of CSA, (B, B) labels in [0, 1] of image i with
                text j in the image-to-text direction, and of text i with image j in the other.

        Returns:
            Named 0-d terms whose sum is the loss.
        """
        raise NotImplementedError(f"{type(self).__name__} says has_own_loss and has no base_loss")

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the image inputs of `pair_scores`, `match` and `embed`, each (B, ...); required by any of them."""
        raise NotImplementedError(f"{type(self).__name__} has no image_parts")

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the caption inputs of `pair_scores`, `match` and `embed`, each (B, ...); required by any of them."""
        raise NotImplementedError(f"{type(self).__name__} has no text_parts")

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Embed the parts of images or of captions: float32 unit rows (B, D); required by `embeds_parts`."""
        raise NotImplementedError(f"{type(self).__name__} says embeds_parts and has no embed")

    def pair_scores(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Score all pairs of I images and C captions: (I, C); required by `scores_pairs`."""
        raise NotImplementedError(f"{type(self).__name__} says scores_pairs and has no pair_scores")

    def match(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Return (P, 2) logits of image i with caption i, column 1 for a match; required by `reranks`."""
        raise NotImplementedError(f"{type(self).__name__} says reranks and has no match")

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the prefixes of the names of a tower's parameters, heads excluded.

        `train.freeze=[image]` or `[text]` freezes them, and `student.lora` adapts layers under them.
        """
        return ()

    def patches(self) -> Patches | None:
        """Return where the image tower has patches of which training may leave some out; None where it may not."""
        return None

    def frozen(self, modality: Literal["image", "text"]) -> bool:
        """Return whether a tower gives the same for an item whenever it is asked, so that it may be asked once.

        Where it is, `tower_features` gives it, and `pixels`, `image_parts` and `text_parts` take it in the place of the
        item: images as a (B, W) tensor, captions as `{"features": (B, W)}`.
        """
        return False

    def tower_features(self, inputs: Any, modality: Literal["image", "text"]) -> Tensor:
        """Return what a tower gives, (B, W) float32, before anything that learns; required where `frozen`."""
        raise NotImplementedError(f"{type(self).__name__} says frozen and has no tower_features")

    def read_patches(self, most: int, *, key: str) -> None:
        """Read pictures as so many patches at most from now on; for students that read them in their own proportions.

        Args:
            most: patches of a picture.
            key: of the settings, for the message.

        Raises:
            ConfigError: if the student reads pictures in one size, or has no positions for so many patches.
        """
        raise ConfigError(
            f"{key} is {most}, and a {type(self).__name__} does not read pictures as a chosen number of patches. Set "
            f"{key}=0.",
            key=key,
        )

    def count_captions(self, read: int, *, truncated: int, shortened: int = 0) -> None:
        """Count captions that `tokenize` read, for `remarks`; from any thread."""
        with _COUNTING:
            self.read += read
            self.truncated += truncated
            self.shortened += shortened

    def remarks(self) -> tuple[str, ...]:
        """Return full sentences for the user: how its weights were read, captions truncated, words unknown."""
        text: Mapping[str, Any] = (getattr(self, "card", None) or {}).get("text", {})
        tokens = f"than {text['context']} tokens" if "context" in text else "tokens than the student reads"
        parts = [
            f"{self._share(number)} had more {limit}"
            for number, limit in (
                (self.truncated, tokens),
                (self.shortened, f"than {text.get('max_words')} words (student.max_words)"),
            )
            if number
        ]
        if not parts:
            return self.notes
        cut = f"Captions were cut: of {counted(self.read, 'caption')} read (each time counted) {' and '.join(parts)}."
        return (*self.notes, cut)

    def _share(self, number: int) -> str:
        return f"{number:,} ({number / max(self.read, number):.1%})"

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything `load` needs, whole or not at all."""

    def image_transform(self, image: Image.Image) -> Tensor:
        """Turn one RGB image into the float input (C, H, W)."""
        arrays = np.stack([self.image_array(image)])  # a copy: the array may be read-only
        return self.pixels(torch.from_numpy(arrays))[0]

    def space_of(self, task: Literal["cross-modal", "uni-modal"]) -> tuple[Space, str]:
        """Return the space that serves a task, and its label beside a number."""
        if task == "cross-modal":
            return "cross", "cross"
        return ("uni", "uni") if self.has_uni else ("cross", "cross (no uni-modal head)")


class StudentClass(Protocol):
    """How a class makes students: the two functions that every kind has."""

    def create(self, config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> Student:
        """Make a student that is about to be trained; see `cusa.models.student.create`."""
        ...

    def load(self, folder: Path) -> Student:
        """Read the folder that `Student.save` wrote."""
        ...
