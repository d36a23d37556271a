"""What a two-tower student asks of an encoder.

Legend: B items, W width of the features, L tokens, T patches or tokens, V width of their hidden states, C H W channels
and pixels of an input.
"""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cusa.errors import ConfigError
from cusa.models.naflex import AnyPreprocess, choose_patches
from cusa.models.pixels import Patches


class HiddenStates(NamedTuple):
    """What an encoder gives of items, each of its patches or tokens apart."""

    pooled: Tensor
    """(B, W), what `forward` returns."""
    states: Tensor
    """(B, T, V): of an image's patches, without class and register tokens; of a text's tokens."""
    there: Tensor | None
    """(B, T) bool, false where a text is padded; None = all are there."""


class Tower(nn.Module, abc.ABC):
    """An encoder of one modality with a pooled output.

    Args:
        card: what its folder is read with again, and what a model card says of it: name, source, licence.
        width: W.
    """

    def __init__(self, card: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.card = dict(card)
        self.width = width

    def hidden_states(self, inputs: Any) -> HiddenStates:
        """Return the hidden states of patches or tokens, and the pooled output; takes what `forward` takes.

        Raises:
            ConfigError: if the encoder gives none.
        """
        raise ConfigError(
            f"The encoder {self.card['name']!r} gives pooled features alone, and late interaction scores patches with "
            "tokens. Give a model of transformers or sentence-transformers, or a module:Class with `hidden_states`; "
            "see docs/students.md.",
            key="student.kind",
        )

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the encoder into a new folder, as its own library reads it."""


class ImageTower(Tower):
    """An encoder of images: `forward` takes what `cusa.models.pixels.normalise` gives and returns features (B, W)."""

    preprocess: AnyPreprocess
    """How an image becomes pixels."""

    def patches(self) -> Patches | None:
        """Return its patches, where training may leave some out; see `cusa.models.pixels`."""
        return None

    def read_patches(self, most: int, *, key: str) -> None:
        """Read pictures as so many patches at most from now on.

        Raises:
            ConfigError: if it reads pictures of one size, or has no positions for so many patches.
        """
        self.preprocess = choose_patches(self.preprocess, most, self.settings, key=key, name=str(self.card["name"]))

    @property
    def settings(self) -> Any:
        """Its configuration in transformers; None where it has none."""
        return None


class TextTower(Tower):
    """An encoder of texts: `forward` takes what `tokenize` returns and gives features (B, W)."""

    reading: dict[str, Any]
    """How a text becomes tokens: `repair`, `prompt`, `context` (tokens at most), `padding`, `inputs` (their names)."""
    tokenizer: Any
    """Of Hugging Face; None where the encoder has a way of its own."""

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        """Tokenise texts on the CPU, from any thread: named (B, L) tensors, and how many texts were truncated."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
