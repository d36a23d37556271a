"""A student that learns on tables of embeddings: two frozen encoders, of which only the outputs are needed.

Legend: B items, W width of an encoder's features, D of the embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models.captions import TRANSFORMS
from cusa.models.config import HeadsConfig, StudentConfig
from cusa.models.features import FEATURES, FeatureTable
from cusa.models.students import folder as folders
from cusa.models.students.base import CARD, Space, Student
from cusa.models.students.heads import ProjectionHeads
from cusa.models.teachers.base import Teacher

Modality = Literal["image", "text"]
_MODALITIES: tuple[Modality, ...] = ("image", "text")
_UNKNOWN = ("", "none", "unknown (imported)")  # weights that nothing can be compared with


class EmbeddingHeads(Student):
    """Projections and CUSA's heads on the rows of two tables.

    Where a split has the two tables, nothing is decoded or tokenised. A new picture or text goes through the encoder
    that the card names, where it names one.

    Args:
        card: what `student.json` holds: name, heads, spaces, features.
        head_std: deviation of new heads' weights.
    """

    embeds_parts = True

    def __init__(self, card: Mapping[str, Any], *, head_std: float = 0.02) -> None:
        super().__init__()
        self.card = dict(card)
        self.name = str(card["name"])
        self.features = {modality: FeatureTable.from_json(card["features"][modality]) for modality in _MODALITIES}
        config = HeadsConfig.model_validate(card["heads"])
        self.width = config.width
        self.has_uni = "uni" in card["spaces"]
        widths = {modality: table.width for modality, table in self.features.items()}
        self.heads = ProjectionHeads(config, widths=widths, spaces=card["spaces"], std=head_std)
        self._encoders: dict[str, Teacher] = {}

    @staticmethod
    def create(
        config: StudentConfig,
        *,
        captions: Sequence[str],
        uni: bool,
        seed: int,
        features: Mapping[str, FeatureTable] | None = None,
    ) -> "EmbeddingHeads":
        """Make a student for training; see `cusa.models.student.create`.

        `student.name` is `scratch` for new heads, or a run or model folder of a student of heads that go on learning.

        Args:
            config: heads, and what they start from.
            captions: not read.
            uni: whether there are uni-modal heads.
            seed: of the new weights.
            features: `image` and `text` -> the table of the training split.

        Raises:
            ConfigError: if the tables are not given, or the heads to go on with are of another kind.
            DataError: if the heads to go on with are of other widths, or learned on rows of other encoders.
        """
        if features is None:
            raise ConfigError(
                "student.kind is 'heads', which reads tables of a work folder: create it with features={'image': ..., "
                "'text': ...} of cusa.models.features.describe.",
                key="student.kind",
            )
        spaces = [*(["cross"] if config.cross_head else []), *(["uni"] if uni else [])]
        card = {
            "kind": "heads",
            "format": folders.FORMAT,
            "name": " + ".join(features[modality].table for modality in _MODALITIES),
            "heads": config.heads.projections(),
            "spaces": spaces,
            "features": {modality: table.to_json() for modality, table in features.items()},
            "tasks": {"cross-modal": "cross", "image-image": "uni", "text-text": "uni"},
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = EmbeddingHeads(card, head_std=config.head_std).train()
        if config.name != "scratch":
            student.go_on_from(config.name)
        # Whoever writes a recipe may name code in it.
        student.trusted = frozenset(table.encoder for table in student.features.values() if ":" in table.encoder)
        return student

    def go_on_from(self, name: str) -> None:
        """Take the heads of another student of this kind; a space that it has none for keeps its new ones.

        Args:
            name: its run or model folder.

        Raises:
            ConfigError: if it is none of this kind.
            DataError: if its heads are of other widths, or learned on rows of other encoders.
        """
        path = Path(name).expanduser()
        folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
        if folder is None or store.read_json(folder / CARD).get("kind") != "heads":
            raise ConfigError(
                f"student.name is {name!r}, which is no run or model folder of a student of heads. Leave it at scratch "
                "for new heads.",
                key="student.name",
            )
        card, state = folders.read_weights(folder)
        for modality, table in self.features.items():
            other = FeatureTable.from_json(card["features"][modality])
            if not table.has_rows_of(other):
                raise DataError(
                    f"The heads of {name} learned on {modality} rows of {other.table!r}, and this work folder's table "
                    f"{table.table!r} was made by another encoder: they mean something else. Name the same one in "
                    f"student.heads.{modality}_table.",
                    key=f"student.heads.{modality}_table",
                )
        known = {key: value for key, value in state.items() if key in self.state_dict()}
        new = tuple(f"heads.heads.{space}" for space in self.heads.spaces if space not in card["spaces"])
        folders.load_state(self, known, name, optional=new)

    @staticmethod
    def load(folder: Path) -> "EmbeddingHeads":
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing or broken.
        """
        card, state = folders.read_weights(folder)
        student = EmbeddingHeads(card)
        folders.load_state(student, state, folder)
        return student

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: whole or not at all."""
        folders.write(folder, self.card, self, None)

    def name_encoder(self, modality: Modality, encoder: str) -> None:
        """Record what makes a row of a new picture or text, once it was loaded and found to be the one of the table.

        Args:
            modality: of which table.
            encoder: as `load_teacher` takes it; the code of a `module:Class` is run.

        Raises:
            ConfigError: if there is no such encoder.
            DataError: if its rows have another width, or its weights are others than those that made the table.
        """
        named = replace(self.features[modality], encoder=encoder)
        self.features = {**self.features, modality: named}
        self.trusted = frozenset((*self.trusted, encoder))
        self._encoders[modality] = self._load_encoder(modality)
        self.card["features"] = {name: table.to_json() for name, table in self.features.items()}

    def image_array(self, image: Image.Image) -> np.ndarray:
        """Encode an RGB image: (W,) float32, by the card's encoder.

        Raises:
            DataError: if the card names no encoder, or it cannot be loaded, or is another one.
        """
        row: np.ndarray = self._encode("image", [image])[0]
        return row

    def pixels(self, arrays: Tensor) -> Tensor:
        """Return rows (B, W) as float32."""
        return arrays.float()

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode texts: `features` (B, W) float32, by the card's encoder; raises as `image_array` does."""
        # What was imported says nothing of its captions: they are read as they are.
        change = TRANSFORMS.get(self.features["text"].provenance.get("transform", ""), TRANSFORMS["none"])
        return {FEATURES: torch.from_numpy(self._encode("text", [change(text) for text in texts]))}

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `projected` (B, D) of rows of the image table (B, W)."""
        return {"projected": self.heads.project(pixels, "image")}

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `projected` (B, D) of rows of the text table, `features` (B, W)."""
        return {"projected": self.heads.project(tokens[FEATURES], "text")}

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Modality) -> Tensor:
        """Embed projected rows: (B, D) float32 unit rows; without uni-modal heads both spaces are one."""
        return self.heads.embed(parts["projected"], space, modality)

    def forward(self, pixels_BW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embed pairs for the loss; see `Student.forward`."""
        images, texts = self.image_parts(pixels_BW), self.text_parts(tokens)
        out = {"image": self.embed(images, "cross", "image"), "text": self.embed(texts, "cross", "text")}
        if self.has_uni:
            out |= {"image_uni": self.embed(images, "uni", "image"), "text_uni": self.embed(texts, "uni", "text")}
        return out

    def _encode(self, modality: Modality, items: Sequence[Any]) -> np.ndarray:
        if modality not in self._encoders:
            self._encoders[modality] = self._load_encoder(modality)
        return np.asarray(self._encoders[modality].encode(items), dtype=np.float32)

    def _load_encoder(self, modality: Modality) -> Teacher:
        from cusa.models.teachers.registry import load_teacher, weights_digest

        table, key = self.features[modality], f"student.heads.{modality}_encoder"
        if not table.encoder:
            raise DataError(
                f"This student was trained on rows of the table {table.table!r} and knows no encoder that makes such a "
                f"row of a new {modality}. Evaluate it on a split that has the table, or name the encoder, what `cusa "
                f"extract-teachers --{modality}` takes: `cusa export RUN --to folder --out MODEL --{modality} ENCODER` "
                f"gives the run a model that knows it; train the next one with --set {key}=ENCODER.",
                key=key,
            )
        if ":" in table.encoder and table.encoder not in self.trusted:
            raise DataError(
                f"This student's encoder of {modality}s is the class {table.encoder!r}, which is not part of cusa: "
                f"loading it runs that module's code. If you trust it, name it: --trust {table.encoder}.",
                key=key,
            )
        encoder = load_teacher(table.encoder, modality)
        if encoder.width != table.width:
            raise DataError(
                f"The encoder {table.encoder!r} gives rows of {encoder.width} numbers, and the heads read "
                f"{table.width}. Name the one that made the table {table.table!r}.",
                key=key,
            )
        expected, there = table.provenance.get("weights_sha256", ""), weights_digest(table.encoder)
        if expected not in _UNKNOWN and there != expected:
            raise DataError(
                f"The encoder {table.encoder!r} has other weights (SHA-256 {there[:12]}) than those that made the "
                f"table {table.table!r} ({expected[:12]}), so its rows mean something else. Bring the old ones back.",
                key=key,
            )
        return encoder
