"""Students of two encoders that never met: any of images beside any of texts, with projections and CUSA's heads.

Legend: B pairs or items, W width of an encoder's features, D of the embedding, C H W channels and pixels of an input.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models import naflex
from cusa.models.captions import prepare
from cusa.models.config import HeadsConfig, StudentConfig
from cusa.models.features import FEATURES
from cusa.models.pixels import Patches, normalise
from cusa.models.quiet import quiet
from cusa.models.students import folder as folders
from cusa.models.students import lora
from cusa.models.students.base import CARD, Space, Student
from cusa.models.students.heads import ProjectionHeads
from cusa.models.towers import image as image_towers
from cusa.models.towers import text as text_towers
from cusa.models.towers.base import ImageTower, TextTower

_HEADS = "heads.safetensors"
_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


class TwoTower(Student):
    """Two encoders with a projection each and the heads of CUSA.

    What an encoder gives can be computed once where it is `frozen`: `image_parts` and `text_parts` also take these
    features, images as a (B, W) tensor, texts as `{"features": (B, W)}`.

    Args:
        image: encoder of images.
        text: encoder of texts.
        card: what `student.json` holds; what the encoders say of themselves is put in here.
        head_std: deviation of new heads' weights.

    Source: Zhai et al., "LiT", CVPR 2022, arXiv:2111.07991; the heads as in CUSA's release (`heads.Head`).
    """

    embeds_parts = True
    kind = "two-tower"
    """What its card says, and the configuration: `student.kind`."""

    def __init__(self, image: ImageTower, text: TextTower, card: Mapping[str, Any], *, head_std: float = 0.02) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"image": image, "text": text})
        self.preprocess = image.preprocess
        self.tokenizer = text.tokenizer
        self.name = f"{image.card['name']} + {text.card['name']}"
        spaces = list(card["heads"]["spaces"])
        self.has_uni = "uni" in spaces
        shape = HeadsConfig(**{key: value for key, value in card["heads"].items() if key != "spaces"})
        self.heads = ProjectionHeads(
            shape, widths={"image": image.width, "text": text.width}, spaces=spaces, std=head_std
        )
        self.width = self.heads.width
        modes = card.get("modes", {})
        self.card: dict[str, Any] = {
            "kind": self.kind,
            "format": folders.FORMAT,
            "name": self.name,
            "width": self.width,
            "towers": {
                modality: {**tower.card, "width": tower.width, "parameters": _count(tower)}
                for modality, tower in (("image", image), ("text", text))
            },
            "modes": modes,
            "preprocess": image.preprocess.to_json(),
            "text": {**card["text"], **text.reading},
            "heads": {"spaces": spaces, **shape.projections()},
            "tasks": {"cross-modal": "cross", "image-image": "uni", "text-text": "uni"},
            **{key: card[key] for key in ("late", "blend") if key in card},
        }

    @classmethod
    def create(cls, config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> Self:
        """Make a student for training; see `cusa.models.student.create`.

        `student.name` is `scratch` for new heads, or a run or model folder of a two-tower student whose heads go on
        learning, the towers being those that the configuration names.

        Raises:
            ConfigError: if a tower is not named, reads the other modality, or has no pooled output.
            DataError: if a tower cannot be loaded, or the heads to go on with are of other widths.
        """
        spaces = [*(["cross"] if config.cross_head else []), *(["uni"] if uni else [])]
        card = {
            "heads": {"spaces": spaces, **config.heads.projections()},
            "text": {"transform": config.captions, "max_words": config.max_words},
            "modes": {"image": config.towers.image.mode, "text": config.towers.text.mode},
            **cls.settings(config),
        }
        state = None if config.name == "scratch" else _saved_heads(config.name, cls.kind)
        # The caller's random numbers stay as they are; towers and heads draw from seeds of their own.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, text = image_towers.load(config.towers.image), text_towers.load(config.towers.text)
            torch.manual_seed(seed + 1)
            student = cls(image, text, card, head_std=config.head_std)
        if state is not None:
            known = {name: value for name, value in state.items() if name in student.heads.state_dict()}
            new = tuple(f"heads.{space}" for space in spaces if not any(f".{space}." in name for name in state))
            folders.load_state(student.heads, known, config.name, optional=new)
        for modality, mode in card["modes"].items():
            if mode == "frozen":
                student.towers[modality].requires_grad_(False)
        return student.train()

    @classmethod
    def settings(cls, config: StudentConfig) -> dict[str, Any]:
        """Return what the card holds besides, of a student that adds to this one."""
        return {}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Classes that the card names run their modules; `cusa.models.student.load` asks the user first.

        Raises:
            DataError: if a file is missing or broken, or the heads do not fit the towers.
        """
        card = store.read_json(folder / CARD)
        if card.get("format") != folders.FORMAT:
            raise DataError(
                f"{folder / CARD} has format {card.get('format')!r}; this version reads {folders.FORMAT}. Use the "
                "version that wrote it.",
                path=folder,
            )
        preprocess = naflex.from_json(card["preprocess"])
        cards = {str(modality): dict(card["towers"][modality]) for modality in _MODALITIES}
        widths = {str(modality): int(one.pop("width")) for modality, one in cards.items()}
        for one in cards.values():
            one.pop("parameters")
        image = image_towers.read(folder / "image", cards["image"], preprocess)
        text = text_towers.read(folder / "text", cards["text"], card["text"])
        for modality, tower in (("image", image), ("text", text)):
            if tower.width != widths[modality]:
                raise DataError(
                    f"{folder / modality} is an encoder of width {tower.width}, and the heads were trained on "
                    f"{widths[modality]}. Restore the tower that belongs to them, or train again.",
                    path=folder / modality,
                )
        text.reading = {key: card["text"][key] for key in ("repair", "prompt", "context", "padding", "inputs")}
        student = cls(image, text, card)
        folders.load_state(student.heads, _read_heads(folder), folder / _HEADS)
        return student

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads, with `image/` and `text/` as their own libraries read them.

        Adapters are merged into the towers there.
        """
        from safetensors.torch import save_file

        with store.whole_folder(folder) as place, folders.system_errors(), lora.merged(self), quiet():
            for modality, tower in self._both():
                tower.save(place / modality)
            heads = {name: value.detach().contiguous().cpu() for name, value in self.heads.state_dict().items()}
            save_file(heads, place / _HEADS)
            store.write_json(place / CARD, self.card)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; a frozen tower stays in evaluation mode, so that its outputs stay constant."""
        super().train(mode)
        for modality, tower in self._both():
            if self.stands_still(modality):
                tower.eval()
        return self

    def stands_still(self, modality: Literal["image", "text"]) -> bool:
        """Return whether no weight of a tower learns."""
        return not any(parameter.requires_grad for parameter in self.towers[modality].parameters())

    def frozen(self, modality: Literal["image", "text"]) -> bool:
        """Return whether no weight of a tower learns; it then gives the same features whenever it is asked."""
        return self.stands_still(modality)

    def tower_features(self, inputs: Any, modality: Literal["image", "text"]) -> Tensor:
        """Run a tower: (B, W) float32, before projection and heads.

        Args:
            inputs: normalised pixels (B, C, H, W), or what `tokenize` returned.
            modality: which tower.
        """
        if torch.is_grad_enabled() and self.frozen(modality):
            with torch.no_grad():
                return self.tower_features(inputs, modality)
        features: Tensor = self.towers[modality](inputs)
        return features.float()

    def image_array(self, image: Image.Image) -> np.ndarray:
        """Scale and cut an RGB image: (3, S, S) uint8, or patches as `NaFlex.array` gives them."""
        return self.preprocess.array(image)

    def pixels(self, arrays: Tensor) -> Tensor:
        """Normalise a batch of arrays to float32, see `cusa.models.pixels.normalise`; features (B, W) pass."""
        if arrays.ndim == 2:
            return arrays
        return normalise(arrays, self.preprocess)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean captions, and tokenise them as the text tower does.

        Raises:
            DataError: if nothing is left of a caption once cleaned.
        """
        text: Any = self.towers["text"]
        cleaned, shortened = prepare(texts, self.card["text"])
        tokens, truncated = text.tokenize(cleaned)
        self.count_captions(len(texts), truncated=truncated, shortened=shortened)
        return dict(tokens)

    def cleaned(self, texts: Sequence[str]) -> list[str]:
        """Return captions as the tokenizer gets them."""
        return prepare(texts, self.card["text"])[0]

    def read_patches(self, most: int, *, key: str) -> None:
        """Read pictures as so many patches at most; see `Student.read_patches`."""
        image: Any = self.towers["image"]
        image.read_patches(most, key=key)
        self.preprocess = image.preprocess
        self.card["preprocess"] = self.preprocess.to_json()

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the name of a tower, its projection and heads apart."""
        return (f"towers.{modality}",)

    def patches(self) -> Patches | None:
        """Return those of the image tower, where it is one that takes any number of them."""
        tower: Any = self.towers["image"]
        patches: Patches | None = tower.patches()
        return patches

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `projected` (B, D), of pixels (B, C, H, W), of patches (B, 1 + N, 3 P P), or of features (B, W)."""
        features = pixels if pixels.ndim == 2 else self.tower_features(pixels, "image")
        return {"projected": self.heads.project(features, "image")}

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `projected` (B, D), of tokens or of `features` (B, W)."""
        features = tokens[FEATURES] if FEATURES in tokens else self.tower_features(tokens, "text")
        return {"projected": self.heads.project(features, "text")}

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Apply the heads of a space: (B, D) float32 unit rows; without uni-modal heads both spaces are one."""
        return self.heads.embed(parts["projected"], space, modality)

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed pairs for the loss, each tower run once; see `Student.forward`."""
        images, texts = self.image_parts(pixels_BCHW), self.text_parts(tokens)
        out = {"image": self.embed(images, "cross", "image"), "text": self.embed(texts, "cross", "text")}
        if self.has_uni:
            out |= {"image_uni": self.embed(images, "uni", "image"), "text_uni": self.embed(texts, "uni", "text")}
        return out

    def _both(self) -> list[tuple[Literal["image", "text"], Any]]:
        return [(modality, self.towers[modality]) for modality in _MODALITIES]


def _count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


def _saved_heads(name: str, kind: str) -> dict[str, Tensor]:
    """Return the heads of a run or model folder of a student of a kind."""
    path = Path(name).expanduser()
    folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
    if folder is None or store.read_json(folder / CARD).get("kind") != kind:
        raise ConfigError(
            f"student.name is {name!r}, which is no run or model folder of a {kind} student. Leave it at scratch "
            "for new heads; the encoders are student.towers.image.name and student.towers.text.name.",
            key="student.name",
        )
    return _read_heads(folder)


def _read_heads(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / _HEADS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder / _HEADS} cannot be read: {str(error).splitlines()[0]} Restore it, or train again.", path=folder
        ) from error
