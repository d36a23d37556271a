"""What the teachers of sentence-transformers share: a model in its folder or on the hub, and its rows."""

import abc
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cusa.errors import ConfigError, DataError
from cusa.manifests.origin import split_revision, teacher_name
from cusa.manifests.storage import store
from cusa.models import checkpoint_file
from cusa.models.device import Device, Precision, unit_rows
from cusa.models.quiet import quiet
from cusa.models.teachers import hub
from cusa.models.teachers.hub import model_folder, model_provenance

_FILES_ELSEWHERE = {
    "sentence_*_config.json": ("tokenizer_name_or_path", "processor_name"),
    "adapter_config.json": ("base_model_name_or_path",),
}
"""Settings of a module that name files which do not lie in its folder."""


class SentenceModel(abc.ABC):
    """A sentence-transformers model as a teacher of one modality.

    Args:
        name: a hub name such as `all-mpnet-base-v2`, or a folder in the sentence-transformers layout.
        precision: numbers of the matrix products.
        device: a torch device; CUDA if there is one when empty.
        batch_size: items a forward pass of `encode`.

    Raises:
        ConfigError: if the model does not read this modality.
        DataError: if the folder or hub name holds no such model, or names files outside of it.

    Source: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084.
    """

    modality: str
    _probe: Any
    """An item that shows how wide the rows are."""

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
        _refuse_files_elsewhere(model_folder(name), name)

        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # progress goes through events
        self._device = Device(precision, device)
        try:
            with quiet():
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
        self._refuse_another_modality(name)
        _refuse_files_elsewhere(model_folder(name), name)  # of the hub, once it is here
        self._device.place(self._model)
        self.name = teacher_name(name)
        self._prompt = (self._model.prompts or {}).get(self._model.default_prompt_name or "") or None
        self._requested = name
        self._batch_size = batch_size
        # A fast tokenizer that two threads set up at once raises "Already borrowed".
        self._tokenizing = threading.Lock()
        self.width = self._measure()

    @property
    def precision(self) -> str:
        """Numbers of the matrix products."""
        return self._device.precision

    @abc.abstractmethod
    def prepare(self, items: Sequence[Any]) -> dict[str, Any]:
        """Make a batch ready as the model's own `encode` does; threads may do it ahead of `embed`."""

    @torch.inference_mode()
    def embed(self, prepared: dict[str, Any], *, exact: bool = False) -> np.ndarray:
        """Embed what `prepare` returned in one pass: (n, width) float32 unit rows; in float32 if `exact`."""
        send = self._device.send
        # The modules write their results into the dictionary: it is copied, so that it can be embedded again.
        features = {key: send(value) if isinstance(value, torch.Tensor) else value for key, value in prepared.items()}
        with self._device.autocast(exact=exact):
            return unit_rows(self._model(features)["sentence_embedding"][:, : self._model.truncate_dim])

    def provenance(self) -> dict[str, str]:
        """Return what made the vectors."""
        return {
            **model_provenance(self._requested),
            "preprocessing": self._preprocessing(),
            "precision": self.precision,
        }

    @abc.abstractmethod
    def _preprocessing(self) -> str: ...

    def _refuse_another_modality(self, name: str) -> None:
        """Refuse a model that does not read this teacher's modality, whatever the kind of its first module."""
        reads = {str(kind) for kind in self._model.modalities} & {"image", "text", "audio", "video"}
        if self.modality in reads:
            return
        other = "text" if self.modality == "image" else "image"
        alone = " and ".join(f"{kind}s" for kind in sorted(reads)) or "nothing that is known here"
        way = f"Give it as --{other} {name}, and as" if other in reads else "Give as"
        raise ConfigError(
            f"Teacher {name!r} is a sentence-transformers model that reads {alone}, not {self.modality}s. {way} "
            f"--{self.modality} a model of {self.modality}s, or one of images and texts such as "
            "sentence-transformers/clip-ViT-B-32.",
            teacher=name,
        )

    def _measure(self) -> int:
        """Embed one item and return the width of its row; what the modules say of it may be another output's."""
        try:
            return int(self.embed(self.prepare([self._probe])).shape[1])
        except Exception as error:  # a model of another kind may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(
                f"The sentence-transformers model {self._requested!r} cannot embed {self.modality}s: {lines[0]} Give a "
                f"model whose `encode` takes {self.modality}s alone, or a module:Class around it.",
                teacher=self._requested,
            ) from error


def _refuse_files_elsewhere(folder: Path | None, name: str) -> None:
    """Refuse a model some of whose files lie outside of its folder: its digest would not cover them.

    Raises:
        DataError: if a module names a tokenizer, a processor or a base model elsewhere, or is a link to a folder.
    """
    if folder is None:
        return
    for pattern, keys in _FILES_ELSEWHERE.items():
        for path in sorted(folder.rglob(pattern)):
            fields = store.read_json(path)
            for key in keys:
                if fields.get(key):
                    raise DataError(
                        f"The sentence-transformers model {name!r} takes files from elsewhere: {key} of "
                        f"{path.relative_to(folder)} is {fields[key]!r}. Tables would not notice when those change. "
                        "Load it with SentenceTransformer (merge an adapter), save it to a new folder, and give that.",
                        path=path,
                    )
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise DataError(
                f"In the sentence-transformers model {name!r}, {path.relative_to(folder)} is a link to a folder. "
                "Tables would not notice when its files change. Copy that folder into the model's.",
                path=path,
            )
