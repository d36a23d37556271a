"""A student as an encoder of mteb: `mteb.evaluate(MtebEncoder("runs/clip"), tasks)`.

mteb (Muennighoff et al., arXiv 2210.07316) need not be installed: this module follows its `EncoderProtocol`
without importing it.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cusa.errors import ConfigError, nearest
from cusa.manifests.origin import teacher_name
from cusa.models import source
from cusa.models import student as students
from cusa.models.students.base import Space

if TYPE_CHECKING:
    from mteb.models import ModelMeta

_SPACES = ("auto", "cross", "uni")


class MtebEncoder:
    """A student as an encoder of texts and pictures for mteb.

    A task that compares pictures with texts gets the cross-modal space; one that compares like with like the uni-modal
    space, or the cross-modal one where the student has no other.

    Args:
        model_name: whatever `cusa.models.student.load` takes: a run, a folder, a checkpoint file, a hub name.
        revision: under which mteb keeps results; a digest of the model's files when None, so that the results of two
            models of one name are never mixed.
        device: torch device; the CPU when None.
        space: `auto` as above, or always `cross` or `uni`.
        trust: as in `cusa.models.student.load`.
        kwargs: of mteb, for other models.

    Raises:
        ConfigError: for another space, or `uni` without uni-modal heads.
        DataError: if nothing there can be loaded.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        space: Literal["auto", "cross", "uni"] = "auto",
        trust: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        if space not in _SPACES:
            raise ConfigError(f"There is no space {space!r}. {nearest(space, _SPACES)}.", space=space)
        self.student = students.load(model_name, device=device or "cpu", trust=trust)
        if space == "uni" and not self.student.has_uni:
            raise ConfigError("This student has no uni-modal heads. Leave space at 'auto'.", space=space)
        self._model_name = model_name
        self._revision = revision or source.weights_digest(model_name)[:16]
        self._space = space
        self._device = torch.device(device or "cpu")

    @torch.inference_mode()
    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed batches: (items, D) float32 unit rows.

        Args:
            inputs: batches with `text`, a list of strings, or `image`, a list of PIL images.
            task_metadata: of the task; its modalities decide on the space.
            hf_split: of the task's data.
            hf_subset: of the task's data.
            prompt_type: query or document; ignored, students have no prompts.
            kwargs: batch size and the like, already applied to `inputs`.

        Raises:
            ConfigError: if an item is a text and a picture at once, or neither.
        """
        space, rows = self._space_for(task_metadata), []
        for batch in inputs:
            modalities = {"text", "image"} & set(batch)
            if len(modalities) != 1:
                raise ConfigError(
                    f"The items of {task_metadata.name} have {', '.join(sorted(modalities or batch))}; a student "
                    "embeds a text or a picture, one at a time. Leave this task out.",
                    task=task_metadata.name,
                )
            if "text" in batch:
                tokens = {name: value.to(self._device) for name, value in self.student.tokenize(batch["text"]).items()}
                embedded = self.student.encode_text(tokens, space)
            else:
                arrays = np.stack([self.student.image_array(image.convert("RGB")) for image in batch["image"]])
                pixels = self.student.pixels(torch.from_numpy(arrays).to(self._device))
                embedded = self.student.encode_image(pixels, space)
            rows.append(embedded.float().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.student.width), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosines of all pairs of two lists of unit rows."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the cosine of each row with the row of the same number."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """Return what mteb writes beside the results."""
        from mteb.models import ModelMeta

        return ModelMeta(
            loader=MtebEncoder,
            name=f"cusa/{teacher_name(self._model_name)}",
            revision=self._revision,
            release_date=None,
            languages=None,
            n_parameters=sum(parameter.numel() for parameter in self.student.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=self.student.width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",  # type: ignore[arg-type]
            use_instructions=False,
            training_datasets=None,
            modalities=["text", "image"],
        )

    def _space_for(self, task_metadata: Any) -> Space:
        if self._space != "auto":
            return self._space
        both = len({*task_metadata.modalities} & {"text", "image"}) == 2
        return self.student.space_of("cross-modal" if both else "uni-modal")[0]
