"""What students with a fusion encoder share: contrastive and matching loss, and CUSA's place in them.

Legend: B pairs in the batch, P pairs of an image and a caption.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.models.captions import prepare
from cusa.models.preprocess import Preprocess
from cusa.models.students import vocabulary
from cusa.models.students.base import Student
from cusa.models.students.x2vlm_network import draw_negatives, matching_loss, negative_weights


class Matching(Student, abc.ABC):
    """A dual encoder whose first candidates a fusion encoder scores again.

    `forward` gives besides `image` and `text` the dicts `image_parts` and `text_parts` that `match` reads, so that each
    tower runs once a step.

    Args:
        card: what `student.json` holds: name, text, uni.
        tokenizer: a Hugging Face tokenizer.
        preprocess: of pictures.
        width: D.
        tower_widths: width of the first token of each tower, `image` and `text`.
        head_std: deviation of new uni-modal heads' weights.
    """

    has_own_loss = True
    soft_labels = "matching"
    reranks = True
    embeds_parts = True

    def __init__(
        self,
        card: Mapping[str, Any],
        tokenizer: Any,
        *,
        preprocess: Preprocess,
        width: int,
        tower_widths: Mapping[str, int],
        head_std: float,
    ) -> None:
        super().__init__()
        self.card = dict(card)
        self.name = str(card["name"])
        self.has_uni = bool(card["uni"])
        self.width = width
        self.preprocess = preprocess
        self.uni = nn.ModuleDict(
            {modality: nn.Linear(tower_width, width) for modality, tower_width in tower_widths.items() if self.has_uni}
        )
        for layer in self.uni.children():
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=head_std)
        self._tokenizer = tokenizer

    @abc.abstractmethod
    def temperature(self) -> Tensor:
        """Return what divides the contrastive loss's cosines."""

    def image_array(self, image: Image.Image) -> np.ndarray:
        """Squash an RGB image to (3, S, S) uint8."""
        return self.preprocess.array(image)

    def pixels(self, arrays: Tensor) -> Tensor:
        """Normalise (B, 3, S, S) uint8 to float32."""
        return torch.from_numpy(self.preprocess.normalise(arrays.cpu().numpy())).to(arrays.device)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Clean and tokenise captions: `input_ids` and `attention_mask`, both (B, L)."""
        cleaned, shortened = prepare(texts, self.card["text"])
        tokens = vocabulary.encode(self._tokenizer, cleaned, context=self.card["text"]["context"])
        self.count_captions(len(texts), truncated=tokens.cut, shortened=shortened)
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask}

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Any]:
        """Return `image`, `text`, with uni-modal heads `image_uni`, `text_uni`, and the parts that `match` reads."""
        images, texts = self.image_parts(pixels_BCHW), self.text_parts(tokens)
        out: dict[str, Any] = {"image_parts": images, "text_parts": texts}
        modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
        for modality, parts in zip(modalities, (images, texts), strict=True):
            out[modality] = self.embed(parts, "cross", modality)
            if self.has_uni:
                out[f"{modality}_uni"] = self.embed(parts, "uni", modality)
        return out

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
