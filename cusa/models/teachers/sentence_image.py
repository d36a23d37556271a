"""Image teachers from sentence-transformers: CLIP and other models of images and texts, by their image side."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cusa.errors import DataError
from cusa.models.teachers.sentence_model import SentenceModel


class SentenceImageTeacher(SentenceModel):
    """A sentence-transformers model as a teacher of images, prepared by its own processor."""

    modality = "image"
    _probe = Image.new("RGB", (64, 48), (127, 127, 127))

    def prepare(self, items: Sequence[Image.Image]) -> dict[str, Any]:
        """Make RGB images ready as the model's own `encode` does.

        Raises:
            DataError: if its processor cannot read one of them.
        """
        # A model that reads chats writes a template around each image and tokenises it.
        chats = "message" in self._model.modalities
        try:
            with self._tokenizing if chats else contextlib.nullcontext():
                return self._model.preprocess(list(items), prompt=self._prompt)
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            sizes = sorted({f"{image.width} x {image.height}" for image in items})
            raise DataError(
                f"The processor of {self._requested!r} cannot read one of {len(items)} pictures ({error}); sizes: "
                f"{', '.join(sizes[:8])}{', ...' if len(sizes) > 8 else ''}. Drop such pictures when sharding.",
                teacher=self._requested,
            ) from error

    def encode(self, items: Sequence[Image.Image]) -> np.ndarray:
        """Embed RGB images: (n, width) float32 unit rows."""
        size = self._batch_size
        blocks = [self.embed(self.prepare(items[start : start + size])) for start in range(0, len(items), size)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.width), dtype=np.float32)

    def _preprocessing(self) -> str:
        first = self._model[0]
        processor = getattr(first, "processor", None)
        reader = type(getattr(processor, "image_processor", processor) or first).__name__
        prompt = f", prompt {self._prompt!r}" if self._prompt and "message" in self._model.modalities else ""
        return f"RGB, sentence-transformers {reader}{prompt}"
