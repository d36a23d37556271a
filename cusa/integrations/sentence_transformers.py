"""CUSA for the trainer of sentence-transformers: a data set of pairs, and the loss that looks up their teacher rows.

Legend: B pairs in the batch, D width of the model's embeddings.
"""

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cusa.errors import ConfigError
from cusa.integrations.teachers import KeyedTeachers, Teachers
from cusa.train.across_ranks import num_ranks
from cusa.train.losses import CUSALoss as Objective

if TYPE_CHECKING:
    import datasets
    from sentence_transformers import SentenceTransformer

_PIXELS = "pixel_values"


class CUSALoss(nn.Module):
    """InfoNCE + alpha CSA + beta USA as a loss of `SentenceTransformerTrainer`.

    The data set has the columns `image`, `text` and `label`, in this order; `label` is (image row, caption row), the
    numbers by which the teachers' rows are looked up. `pairs` makes such a data set of a work folder. The projectors of
    USA and the temperatures are parameters of this loss, which the trainer optimises with the model; the model that it
    saves is the bare one. With several processes the gradients of these parameters are averaged here, as the trainer
    does not wrap a loss in DistributedDataParallel.

    Args:
        model: any that embeds images and texts in one space.
        teachers: `cusa.teacher_rows(...)`, or `Teachers(image, text)` of two arrays.
        uni_width: width of the two projectors of USA; unused where beta is 0.
        objective: weights, temperatures, modes; `cusa.CUSALoss()` if None.

    Raises:
        ConfigError: if the loss wants lists of false negatives, which a data set of pairs does not have.

    Example:
        >>> teachers = cusa.teacher_rows("work/coco")
        >>> trainer = SentenceTransformerTrainer(model, args, train_dataset=pairs(teachers),
        ...                                      loss=CUSALoss(model, teachers))
    """

    def __init__(
        self,
        model: "SentenceTransformer",
        teachers: Teachers,
        *,
        uni_width: int = 256,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective if objective is not None else Objective()
        if self.objective.false_negatives == "positive":
            raise ConfigError(
                "false_negatives is 'positive', which needs lists of pairs that a data set of the trainer does not "
                "carry; allowed: 'soft', 'mask'.",
                key="false_negatives",
            )
        self._teachers = teachers
        width = model.get_embedding_dimension()
        if width is None:
            raise ConfigError("The model does not tell the width of its embeddings.", key="model")
        wanted = bool(self.objective.beta)
        self.image_projector = nn.Linear(width, uni_width) if wanted else None
        self.text_projector = nn.Linear(width, uni_width) if wanted else None
        for owner in (self.objective, self.image_projector, self.text_projector):
            for parameter in owner.parameters() if owner is not None else ():
                if parameter.requires_grad:
                    parameter.register_hook(_mean_of_ranks)

    def forward(self, features: Iterable[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms, which the trainer adds and logs.

        Args:
            features: the batch's images and texts, prepared.
            labels: (B, 2) image rows and caption rows.

        Returns:
            `infonce`, `csa` and `usa`.

        Raises:
            ConfigError: if the data set has other columns.
        """
        columns = list(features)
        if len(columns) != 2 or _PIXELS not in columns[0] or _PIXELS in columns[1]:
            kinds = ["images" if _PIXELS in column else "texts" for column in columns]
            raise ConfigError(
                f"The data set has {len(columns)} input columns ({', '.join(kinds) or 'none'}); CUSALoss needs `image` "
                "and `text`, in this order, and `label`. `cusa.integrations.sentence_transformers.pairs` makes one.",
                key="dataset",
            )
        if labels is None or labels.ndim != 2 or labels.shape[1] != 2 or labels.is_floating_point():
            shape = "missing" if labels is None else f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
            raise ConfigError(
                f"The column `label` is {shape}; it must be two integers a row, (image row, caption row).", key="label"
            )
        image_BD, text_BD = (self.model(column)["sentence_embedding"] for column in columns)
        given = self._teachers.at(labels[:, 0], labels[:, 1])
        teachers = {name: rows.to(image_BD.device) for name, rows in given.items()}
        if self.image_projector is not None and self.text_projector is not None:
            teachers |= {"image_uni": self.image_projector(image_BD), "text_uni": self.text_projector(text_BD)}
        terms: dict[str, Tensor] = self.objective(image=image_BD, text=text_BD, **teachers)
        return {name: value for name, value in terms.items() if name != "loss"}

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says of the loss."""
        objective = self.objective
        return {name: getattr(objective, name) for name in ("alpha", "beta", "infonce_weight", "reduction", "fusion")}

    @property
    def citation(self) -> str:
        """The paper, for the model card."""
        return (
            "@inproceedings{cusa, title={Cross-Modal and Uni-Modal Soft-Label Alignment for Image-Text Retrieval}, "
            "author={Huang, Hailang and Nie, Zhijie and Wang, Ziqiao and Shang, Ziyu}, booktitle={AAAI}, year={2024}, "
            "doi={10.1609/aaai.v38i16.29789}}"
        )


def _mean_of_ranks(gradient: Tensor) -> Tensor:
    """Return the mean over ranks of a parameter's gradient; of one process, what it is."""
    if num_ranks() == 1:
        return gradient
    whole = gradient.clone()
    dist.all_reduce(whole)
    return whole / num_ranks()


def pairs(teachers: KeyedTeachers) -> "datasets.Dataset":
    """Return the pairs of a split as a data set for `SentenceTransformerTrainer`: `image`, `text`, `label`.

    A row an own pair of image and caption; pictures are read from the tars and decoded when they are asked for.

    Args:
        teachers: of the split.
    """
    import datasets
    from PIL import Image

    split = teachers.split
    owners = torch.from_numpy(split.caption_owner)
    labels = torch.stack([owners, torch.arange(len(owners))], dim=1)

    def read(batch: Mapping[str, list[list[int]]]) -> dict[str, list[Any]]:
        rows = batch["label"]
        return {
            "image": [Image.open(io.BytesIO(split.image_bytes(image))).convert("RGB") for image, _ in rows],
            "text": [split.texts[caption] for _, caption in rows],
            "label": rows,
        }

    return datasets.Dataset.from_dict({"label": labels.tolist()}).with_transform(read)
