"""Text teachers: any sentence-transformers model, Sentence-BERT's `all-mpnet-base-v2` being the paper's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests import store
from cusa.models.teachers import teacher_name


class SentenceTeacher:
    """A sentence-transformers model as a teacher of texts.

    Args:
        name: a hub name such as `all-mpnet-base-v2`, or a folder in the sentence-transformers layout.
        device: a torch device; CUDA if there is one when empty.
        batch_size: texts a forward pass.

    Raises:
        DataError: if the folder or hub name holds no such model.

    Source: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084.
    """

    modality = "text"

    def __init__(self, name: str, *, device: str = "", batch_size: int = 64) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # progress is told through events
        path = Path(name).expanduser()
        if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~"))):
            raise DataError(f"{name} is no folder. Give a sentence-transformers folder or a hub name.", path=name)
        if path.is_dir() and not (path / "modules.json").is_file():
            raise DataError(
                f"{name} is no sentence-transformers folder: it has no modules.json. Give the folder that "
                "SentenceTransformer.save wrote, or a hub name such as all-mpnet-base-v2.",
                path=name,
            )
        try:
            self._model = SentenceTransformer(
                str(path) if path.is_dir() else name, device=device or None, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"The sentence-transformers model {name!r} cannot be loaded: {str(error).splitlines()[0]} "
                "Check the name, the network, or give a local folder.",
                teacher=name,
            ) from error
        self.name = teacher_name(name)
        self.width = int(self._model.get_embedding_dimension() or 0)
        self._batch_size = batch_size
        self._path = path if path.is_dir() else None
        self._revision = name

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Embed texts: (n, width) float32 unit rows; equal texts are computed once."""
        distinct = list(dict.fromkeys(items))
        rows = self._model.encode(
            distinct,
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        where = {text: row for row, text in enumerate(distinct)}
        return np.asarray(rows, dtype=np.float32)[[where[text] for text in items]]

    def provenance(self) -> dict[str, str]:
        """Say what made the vectors."""
        return {
            "teacher": self._revision if self._path is None else self.name,
            "revision": "local folder" if self._path else "hub default",
            "weights_sha256": store.sha256_folder(self._path) if self._path else "unknown (hub)",
            "preprocessing": f"sentence-transformers tokenizer, {self._model.max_seq_length} tokens at most",
        }
