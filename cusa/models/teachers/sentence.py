"""Text teachers: any sentence-transformers model, Sentence-BERT's `all-mpnet-base-v2` being the paper's."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cusa.errors import DataError
from cusa.manifests.origin import split_revision, teacher_name
from cusa.models import checkpoint_file
from cusa.models.device import Device, Precision, unit_rows
from cusa.models.teachers import hub
from cusa.models.teachers.hub import model_provenance


class SentenceTeacher:
    """A sentence-transformers model as a teacher of texts.

    Args:
        name: a hub name such as `all-mpnet-base-v2`, or a folder in the sentence-transformers layout.
        precision: numbers of the matrix products.
        device: a torch device; CUDA if there is one when empty.
        batch_size: texts a forward pass of `encode`.

    Raises:
        DataError: if the folder or hub name holds no such model.

    Source: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084.
    """

    modality = "text"

    def __init__(self, name: str, *, precision: Precision = "auto", device: str = "", batch_size: int = 64) -> None:
        path = Path(name).expanduser()
        if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~"))):
            raise DataError(f"{name} is no folder. Give a sentence-transformers folder or a hub name.", path=name)
        if path.is_dir() and not (path / "modules.json").is_file():
            raise DataError(
                f"{name} is no sentence-transformers folder: it has no modules.json. Give the folder that "
                "SentenceTransformer.save wrote, or a hub name such as all-mpnet-base-v2.",
                path=name,
            )
        for folder in (path, *path.glob("[0-9]*_*/")):  # a module's own folder: 0_Transformer, 2_Dense
            checkpoint_file.refuse_placeholders(folder)
        where = hub.where(name, what=f"The sentence-transformers model {name!r}")

        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # progress goes through events
        self._device = Device(precision, device)
        try:
            self._model = SentenceTransformer(
                str(path) if path.is_dir() else split_revision(name)[0],
                device=str(self._device.torch),
                **where,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"The sentence-transformers model {name!r} cannot be loaded: {str(error).splitlines()[0]} "
                "Check the name, the network, or give a local folder.",
                teacher=name,
            ) from error
        self._device.place(self._model)
        self.name = teacher_name(name)
        self.width = int(self._model.get_embedding_dimension() or 0)
        self._prompt = (self._model.prompts or {}).get(self._model.default_prompt_name or "") or None
        self._requested = name
        self._batch_size = batch_size
        # A fast tokenizer that two threads set up at once raises "Already borrowed".
        self._tokenizing = threading.Lock()

    @property
    def precision(self) -> str:
        """Numbers of the matrix products."""
        return self._device.precision

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
        """Tokenise a batch as the model's own `encode` does."""
        with self._tokenizing:
            return self._model.preprocess(list(items), prompt=self._prompt)

    @torch.inference_mode()
    def embed(self, prepared: dict[str, Any], *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned in one pass: (n, width) float32 unit rows; in float32 if `exact`."""
        send = self._device.send
        # The modules write their results into the dictionary: it is copied, so that it can be embedded again.
        features = {key: send(value) if isinstance(value, torch.Tensor) else value for key, value in prepared.items()}
        with self._device.autocast(exact=exact):
            return unit_rows(self._model(features)["sentence_embedding"][:, : self.width])

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed texts: (n, width) float32 unit rows; equal texts are computed once."""
        distinct = sorted(dict.fromkeys(items), key=len)
        size = self._batch_size
        starts = range(0, len(distinct), size)
        blocks = [self.embed(self.prepare(distinct[start : start + size])) for start in starts]
        rows = np.concatenate(blocks) if blocks else np.zeros((0, self.width), dtype=np.float32)
        where = {text: row for row, text in enumerate(distinct)}
        return rows[[where[text] for text in items]]

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        prompt = f", prompt {self._prompt!r}" if self._prompt else ""
        return {
            **model_provenance(self._requested),
            "preprocessing": f"sentence-transformers tokenizer, {self._model.max_seq_length} tokens at most{prompt}",
            "precision": self.precision,
        }
