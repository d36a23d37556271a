"""Text teachers: any sentence-transformers model, Sentence-BERT's `all-mpnet-base-v2` being the paper's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cusa.models.teachers.sentence_model import SentenceModel


class SentenceTeacher(SentenceModel):
    """A sentence-transformers model as a teacher of texts; of a model of images and texts, its text side."""

    modality = "text"
    _probe = "a dog on grass"

    def lengths(self, items: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each text, in the order given: (n,) int64."""
        tokenizer = self._model.tokenizer
        if not callable(tokenizer):
            return np.array([len(text) for text in items], dtype=np.int64)
        most = self._model.max_seq_length
        with self._tokenizing:
            rows = tokenizer(list(items), truncation=most is not None, max_length=most)["input_ids"] if items else []
        return np.array([len(row) for row in rows], dtype=np.int64)

    def prepare(self, items: Sequence[str]) -> dict[str, Any]:
        """Tokenise a batch as the model's own `encode` does.

        One difference: a text is a text, also where it reads like an address or a file of a picture, which `encode` of
        a model of images and texts would open.
        """
        with self._tokenizing:
            if self._model.modalities == ["text"]:
                return self._model.preprocess(list(items), prompt=self._prompt)
            first: Any = self._model[0]
            if self._routes_to_texts_alone():
                prepared: dict[str, Any] = first.preprocess(list(items), prompt=self._prompt, modality="text")
                return prepared
            return self._model.preprocess([{"text": text} for text in items], prompt=self._prompt)

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed texts: (n, width) float32 unit rows; equal texts are computed once."""
        distinct = sorted(dict.fromkeys(items), key=len)
        size = self._batch_size
        starts = range(0, len(distinct), size)
        blocks = [self.embed(self.prepare(distinct[start : start + size])) for start in starts]
        rows = np.concatenate(blocks) if blocks else np.zeros((0, self.width), dtype=np.float32)
        where = {text: row for row, text in enumerate(distinct)}
        return rows[[where[text] for text in items]]

    def _preprocessing(self) -> str:
        prompt = f", prompt {self._prompt!r}" if self._prompt else ""
        return f"sentence-transformers tokenizer, {self._model.max_seq_length} tokens at most{prompt}"

    def _routes_to_texts_alone(self) -> bool:
        """Tell whether the first module is a Router whose readers of texts read nothing else."""
        routes: Any = getattr(self._model[0], "sub_modules", None)
        if routes is None:
            return False
        kinds = [getattr(route[0], "modalities", ["text"]) for route in routes.values()]
        return all(kind == ["text"] for kind in kinds if "text" in kind)
