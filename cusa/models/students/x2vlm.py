"""Students of X2-VLM: ranked by the dual encoder, re-ranked by the fusion encoder.

Legend: B images or captions, L tokens, D width of the embedding, C H W channels and pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.models import checkpoint_file
from cusa.models.captions import TRANSFORMS
from cusa.models.config import StudentConfig
from cusa.models.preprocess import Preprocess
from cusa.models.students import folder as folders
from cusa.models.students import vocabulary
from cusa.models.students.base import Space
from cusa.models.students.matching import Matching
from cusa.models.students.x2vlm_network import BASE, LARGE, Sizes, X2vlmNetwork, from_checkpoint
from cusa.models.teachers import hub


class X2vlm(Matching):
    """X2-VLM with CUSA's fully connected heads, one for each modality.

    Pictures are squashed to a square with bicubic resampling and CLIP's mean and deviation, as its evaluation does.

    Args:
        network: the model.
        tokenizer: gives word ids with a start mark first, whose place is pooled.
        card: what `student.json` holds.

    Source: Zeng et al., arXiv 2211.12402; Huang et al., AAAI 2024, doi 10.1609/aaai.v38i16.29789.
    """

    def __init__(
        self, network: X2vlmNetwork, tokenizer: Any, card: Mapping[str, Any], *, head_std: float = 0.02
    ) -> None:
        sizes = network.sizes
        super().__init__(
            {**card, "sizes": asdict(sizes)},
            tokenizer,
            preprocess=Preprocess(sizes.image_size, fit="squash"),
            width=sizes.width,
            tower_widths={"image": sizes.vision_width, "text": sizes.text_width},
            head_std=head_std,
        )
        self.network = network

    @staticmethod
    def create(config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> "X2vlm":
        """Make a student for training, from a checkpoint file with the authors' names or from scratch.

        Raises:
            DataError: if keys of the checkpoint are missing, unexpected or of other sizes.
        """
        settings = config.x2vlm
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if settings.size == "scratch":
                cleaned = [TRANSFORMS[config.captions](caption) for caption in captions]
                tokenizer: Any = vocabulary.build(cleaned, size=config.vocabulary, context=config.context)
                sizes = Sizes(
                    image_size=config.image_size,
                    patch_size=config.patch_size,
                    vision_width=config.image_width,
                    vision_layers=config.image_layers,
                    vision_heads=config.image_width // config.head_width,
                    text_width=config.text_width,
                    text_heads=config.text_width // config.head_width,
                    text_inner=4 * config.text_width,
                    text_layers=config.text_layers,
                    fusion_layers=settings.fusion_layers,
                    vocabulary=len(tokenizer),
                    positions=config.context,
                    width=config.width,
                    dropout=settings.dropout,
                )
            else:
                tokenizer = _hub_tokenizer(settings.tokenizer)
                sizes = replace(
                    BASE if settings.size == "base" else LARGE, image_size=settings.image_size, dropout=settings.dropout
                )
            network = X2vlmNetwork(sizes)
            notes: tuple[str, ...] = ()
            if config.name != "scratch":
                path = Path(config.name).expanduser()
                state, notes = checkpoint_file.read(path)
                folders.load_state(network, from_checkpoint(_retrieval_keys(state), sizes), path, optional="itm_head.")
            torch.manual_seed(seed + 1)
            text = {"transform": config.captions, "max_words": config.max_words, "context": config.context}
            card = {"kind": "x2vlm", "name": Path(config.name).stem, "text": text, "uni": uni}
            student = X2vlm(network, tokenizer, card, head_std=config.head_std).train()
            student.notes = notes
            return student

    @staticmethod
    def load(folder: Path) -> "X2vlm":
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing or broken.
        """
        card, state, tokenizer = folders.read(folder)
        student = X2vlm(X2vlmNetwork(Sizes(**card["sizes"])), tokenizer, card)
        folders.load_state(student, state, folder)
        return student

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: whole or not at all."""
        folders.write(folder, self.card, self, self._tokenizer)

    def temperature(self) -> Tensor:
        """Return the learned temperature, kept within [0.001, 0.5] as in the reference."""
        with torch.no_grad():
            self.network.temp.clamp_(0.001, 0.5)
        return self.network.temp

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the name of the image tower, or of the text layers, the fusion's included."""
        return ("network.vision_encoder",) if modality == "image" else ("network.text_encoder",)

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `tokens` (B, 1 + T, V)."""
        return {"tokens": self.network.encode_image(pixels)}

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `tokens` (B, L, W) and their `mask` (B, L)."""
        mask = tokens["attention_mask"]
        return {"tokens": self.network.encode_text(tokens["input_ids"], mask), "mask": mask}

    def match(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Return (P, 2) logits, column 1 saying that image and caption belong together."""
        return self.network.match(images["tokens"], texts["tokens"], texts["mask"]).float()

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Project the first token of images or of captions: (B, D) float32 unit rows."""
        if space == "uni" and self.has_uni:
            return F.normalize(self.uni[modality](parts["tokens"][:, 0]).float(), dim=-1)
        project = self.network.project_image if modality == "image" else self.network.project_text
        return project(parts["tokens"])


def _retrieval_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the heads of pre-training, which retrieval does not use: masked words and boxes."""
    others = ("text_encoder.cls.", "bbox_head.", "vision_encoder.head.", "vision_encoder.norm.")
    kept = {name: value for name, value in state.items() if not name.startswith(others)}
    return {name.replace("text_encoder.bert.", "text_encoder."): value for name, value in kept.items()}


def _hub_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    where = hub.where(name, what=f"student.x2vlm.tokenizer is {name!r}")
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # transformers raises almost anything
        raise DataError(
            f"The tokenizer {name!r} cannot be loaded: {str(error).strip().splitlines()[0]} Give a folder with BERT's "
            "vocabulary: student.x2vlm.tokenizer=PATH.",
            name=name,
        ) from error
