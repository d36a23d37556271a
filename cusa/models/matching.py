"""What students with a fusion encoder share: contrastive and matching loss, and CUSA's place in them.

Legend: B pairs in the batch, P pairs of an image and a caption.
"""

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cusa.models.student import Student
from cusa.models.x2vlm_network import draw_negatives, matching_loss, negative_weights


class Matching(Student, abc.ABC):
    """A dual encoder whose first candidates a fusion encoder scores again.

    `forward` gives besides `image` and `text` the dicts `image_parts` and `text_parts` that `match` reads, so that each
    tower runs once a step.
    """

    has_own_loss = True
    soft_labels = "matching"
    reranks = True

    @abc.abstractmethod
    def temperature(self) -> Tensor:
        """Return what divides the contrastive loss's cosines."""

    def base_loss(
        self, out: Mapping[str, Any], *, image_ids: Tensor, match_labels: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute ITC and ITM, as X2-VLM's fine-tuning does without momentum.

        ITC is InfoNCE with all texts of an image as positives. ITM is the cross-entropy of the matching head over the B
        pairs, one hard negative image for each text and one hard negative text for each image, drawn in proportion to
        the contrastive softmax; pairs of the same image are never drawn.

        CUSA leaves ITC alone and makes the labels of the drawn negatives soft: a negative text j of image i gets
        `match_labels[0][i, j]`, a negative image j of text i gets `match_labels[1][i, j]`; see
        `cusa.train.terms.match_labels` for the formula. Without labels both are 0.

        Source: Zeng et al., arXiv 2211.12402, equations 4 and 5; Li et al., "Align before Fuse", NeurIPS 2021.
        """
        similarity = out["image"] @ out["text"].T / self.temperature()
        targets = (image_ids[:, None] == image_ids).float()
        targets = targets / targets.sum(1, keepdim=True)
        itc = (F.cross_entropy(similarity, targets) + F.cross_entropy(similarity.T, targets)) / 2
        own = torch.arange(len(image_ids), device=image_ids.device)
        image_rows, texts = draw_negatives(negative_weights(similarity, image_ids))
        text_rows, images = draw_negatives(negative_weights(similarity.T, image_ids))
        labels = [torch.ones(len(own), device=own.device)]
        for number, (rows, columns) in enumerate(((text_rows, images), (image_rows, texts))):
            soft = None if match_labels is None else match_labels[1 - number][rows, columns]
            labels.append(torch.zeros(len(rows), device=own.device) if soft is None else soft)
        logits = self.match(
            take(out["image_parts"], torch.cat([own, images, image_rows])),
            take(out["text_parts"], torch.cat([own, text_rows, texts])),
        )
        return {"itc": itc, "itm": matching_loss(logits, torch.cat(labels))}


def take(parts: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Return some rows of every part, in this order."""
    return {name: value[rows] for name, value in parts.items()}
