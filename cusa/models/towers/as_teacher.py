"""A student's frozen tower as a teacher, so that extraction computes what it gives once an item.

Legend: B items, W width of the tower's features.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from cusa.manifests.storage import store
from cusa.manifests.tables import TOWER
from cusa.models.students.base import Student


class TowerTeacher:
    """A frozen tower, which gives the directions of its features: the heads of a student do not see their length.

    Args:
        student: its `frozen` says that the tower always gives the same; it is put into evaluation mode.
        modality: which tower.
        device: where it runs; the student goes there.
    """

    precision: str = "float32"

    def __init__(self, student: Student, modality: Literal["image", "text"], *, device: torch.device) -> None:
        assert student.frozen(modality), modality
        self.modality: str = modality
        self._modality = modality
        self._student = student.to(device).eval()
        self._device = device
        self._digest = _digest(student, modality)
        self.name = f"{TOWER}{modality}-{self._digest[:16]}"
        with torch.inference_mode():
            empty = ["a"] if modality == "text" else [_grey()]
            self.width = self.embed(self.prepare(empty)).shape[1]

    def lengths(self, items: Sequence[Any]) -> np.ndarray:
        """Return the length of each text in characters; of images, all of which are one size, 1."""
        return np.array([len(item) if isinstance(item, str) else 1 for item in items], dtype=np.int64)

    def prepare(self, items: Sequence[Any]) -> Any:
        """Make a batch ready as the student does: arrays of images, or tokens."""
        if self.modality == "text":
            return self._student.tokenize(items)
        return np.stack([self._student.image_array(item) for item in items])

    @torch.inference_mode()
    def embed(self, prepared: Any, *, exact: bool = False) -> np.ndarray:
        """Run the tower: (B, W) float32 unit rows."""
        if self.modality == "text":
            inputs: Any = {name: values.to(self._device) for name, values in prepared.items()}
        else:
            inputs = self._student.pixels(torch.from_numpy(prepared).to(self._device))
        features_BW = self._student.tower_features(inputs, self._modality).double()
        rows: np.ndarray = torch.nn.functional.normalize(features_BW, dim=-1).float().cpu().numpy()
        return rows

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed images or texts: (B, W) float32 unit rows."""
        return self.embed(self.prepare(items))

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return {
            "teacher": self.name,
            "revision": f"the frozen {self.modality} tower of {self._student.name}",
            "weights_sha256": self._digest,
            "preprocessing": "the student's",
            "precision": self.precision,
        }


def _grey() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), (128, 128, 128))


def _digest(student: Student, modality: Literal["image", "text"]) -> str:
    """Return a SHA-256 of a tower's weights and of how it reads."""
    total = hashlib.sha256()
    starts = tuple(f"{name}." for name in student.tower(modality))
    for name, value in sorted(student.state_dict().items()):
        if name.startswith(starts):
            flat = value.detach().cpu().contiguous().reshape(-1)
            total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            total.update(memoryview(flat.view(torch.uint8).numpy()))
    card = getattr(student, "card", None) or {}
    reading = [card.get("towers", {}).get(modality), card.get("preprocess" if modality == "image" else "text")]
    return store.digest([total.hexdigest(), reading])
