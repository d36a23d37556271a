"""A student as a module of sentence-transformers: `SentenceTransformer(folder).encode` of texts and of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers.base.modules.input_module import InputModule
from torch import Tensor

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.students.base import Space, Student

_CONFIG = "space.json"
_STUDENT = "student"


class StudentModule(InputModule):
    """Texts and pictures in, unit rows of one space out, prepared as the student's preprocessing says.

    Args:
        student: any student; one that scores pairs gives its global vectors.
        space: `cross` to compare pictures with texts, `uni` to compare like with like.
    """

    save_in_root = False

    def __init__(self, student: Student, space: Space) -> None:
        initialise: Any = super().__init__  # untyped there
        initialise()
        self.student = student.eval()
        self.space: Space = space

    @property
    def modalities(self) -> list[Any]:
        """Texts and pictures."""
        return ["text", "image"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Turn texts, or pictures (PIL images, or paths of files), into what the student reads.

        Raises:
            DataError: if the batch mixes texts and pictures.
        """
        kinds = {isinstance(item, str) for item in inputs}
        if len(kinds) > 1:
            raise DataError("A batch holds texts and pictures. Encode them in two calls.")
        if kinds == {True}:
            texts = [f"{prompt}{text}" if prompt else str(text) for text in inputs]
            return {"modality": "text", **{f"text.{n}": v for n, v in self.student.tokenize(texts).items()}}
        arrays = [self.student.image_array(_opened(item)) for item in inputs]
        return {"modality": "image", "arrays": torch.from_numpy(np.stack(arrays))}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Add `sentence_embedding` (B, D) to the features."""
        if "arrays" in features:
            rows = self.student.encode_image(self.student.pixels(features["arrays"]), self.space)
        else:
            tokens = {n.removeprefix("text."): v for n, v in features.items() if n.startswith("text.")}
            rows = self.student.encode_text(tokens, self.space)
        return {**features, "sentence_embedding": rows}

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.student.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the student and the space into a folder."""
        self.student.save(Path(output_path) / _STUDENT)
        store.write_json(Path(output_path) / _CONFIG, {"space": self.space})

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "StudentModule":  # type: ignore[override]
        """Read what `save` wrote, from a local folder.

        A student's class outside cusa is loaded only if `model_kwargs={"trust": ["module:Class"]}` names it.
        """
        trust = (kwargs.get("model_kwargs") or {}).get("trust", ())
        folder = Path(model_name_or_path) / subfolder
        return cls(students.load(folder / _STUDENT, trust=trust), store.read_json(folder / _CONFIG)["space"])


def _opened(item: Any) -> Any:
    if isinstance(item, Image.Image):
        return item.convert("RGB")
    return item
