"""Students of BLIP, from Hugging Face, through the same two stages as X2-VLM.

Legend: B images or captions, P pairs, D width of the embedding, C H W channels and pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.models.captions import TRANSFORMS
from cusa.models.config import StudentConfig
from cusa.models.pixels import Patches, of_vision_model
from cusa.models.preprocess import Preprocess
from cusa.models.students import folder as folders
from cusa.models.students import vocabulary
from cusa.models.students.base import Space
from cusa.models.students.matching import Matching
from cusa.models.teachers import hub


class Blip(Matching):
    """BLIP's retrieval model, whose text encoder reads the image from its first layer on when it matches.

    Args:
        model: a `BlipForImageTextRetrieval`.
        tokenizer: its tokenizer.
        card: what `student.json` holds.

    Source: Li et al., "BLIP", ICML 2022, arXiv 2201.12086. Momentum encoders and queues are left out; the temperature
    is fixed at 0.07 where the checkpoint has none.
    """

    def __init__(self, model: Any, tokenizer: Any, card: Mapping[str, Any], *, head_std: float = 0.02) -> None:
        sizes = model.config
        super().__init__(
            {**card, "config": sizes.to_dict()},
            tokenizer,
            preprocess=Preprocess(sizes.vision_config.image_size, fit="squash"),
            width=int(sizes.image_text_hidden_size),
            tower_widths={"image": sizes.vision_config.hidden_size, "text": sizes.text_config.hidden_size},
            head_std=head_std,
        )
        self.model = model
        self.temp = nn.Parameter(torch.tensor(0.07))

    @staticmethod
    def create(config: StudentConfig, *, captions: Sequence[str], uni: bool, seed: int) -> "Blip":
        """Make a student for training, from a hub name or folder or from scratch.

        Raises:
            DataError: if the model cannot be loaded.
        """
        from transformers import AutoTokenizer, BlipForImageTextRetrieval

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer: Any
            if config.name == "scratch":
                cleaned = [TRANSFORMS[config.captions](caption) for caption in captions]
                tokenizer = vocabulary.build(cleaned, size=config.vocabulary, context=config.context)
                model = _scratch(config, tokenizer)
            else:
                of_hub = config.revision and not Path(config.name).expanduser().is_dir()
                wanted = f"{config.name}@{config.revision}" if of_hub else config.name
                where = hub.where(wanted, what=f"student.name is {config.name!r}")
                try:
                    model = BlipForImageTextRetrieval.from_pretrained(config.name, **where)
                    tokenizer = AutoTokenizer.from_pretrained(config.name, trust_remote_code=False, **where)
                except Exception as error:  # transformers raises almost anything
                    raise DataError(
                        f"{config.name!r} cannot be loaded as BLIP's retrieval model: "
                        f"{str(error).strip().splitlines()[0]} Give Salesforce/blip-itm-base-coco or a folder of it.",
                        name=config.name,
                    ) from error
            torch.manual_seed(seed + 1)
            text = {"transform": config.captions, "max_words": config.max_words, "context": config.context}
            card = {"kind": "blip", "name": config.name, "text": text, "uni": uni}
            return Blip(model, tokenizer, card, head_std=config.head_std).train()

    @staticmethod
    def load(folder: Path) -> "Blip":
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing or broken.
        """
        from transformers import BlipConfig, BlipForImageTextRetrieval

        card, state, tokenizer = folders.read(folder)
        student = Blip(BlipForImageTextRetrieval(BlipConfig.from_dict(card["config"])), tokenizer, card)
        folders.load_state(student, state, folder)
        return student

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: whole or not at all."""
        folders.write(folder, self.card, self, self._tokenizer)

    def temperature(self) -> Tensor:
        """Return the learned temperature, kept within [0.001, 0.5]."""
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        return self.temp

    def tower(self, modality: Literal["image", "text"]) -> tuple[str, ...]:
        """Return the name of one encoder."""
        return ("model.vision_model",) if modality == "image" else ("model.text_encoder",)

    def patches(self) -> Patches | None:
        """Return those of the image tower; the text encoder reads those that are left."""
        return of_vision_model(self.model.vision_model, size=self.preprocess.size)

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `tokens` (B, 1 + T, V)."""
        return {"tokens": self.model.vision_model(pixel_values=pixels).last_hidden_state}

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `ids` and `mask` (B, L), which matching reads, and `first` (B, W), the first token unfused."""
        first = self.model.text_encoder(**tokens).last_hidden_state[:, 0]
        return {"ids": tokens["input_ids"], "mask": tokens["attention_mask"], "first": first}

    def match(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Return (P, 2) logits, column 1 saying that image and caption belong together."""
        patches = images["tokens"]
        hidden = self.model.text_encoder(
            input_ids=texts["ids"],
            attention_mask=texts["mask"],
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        ).last_hidden_state
        logits: Tensor = self.model.itm_head(hidden[:, 0])
        return logits.float()

    def embed(self, parts: Mapping[str, Tensor], space: Space, modality: Literal["image", "text"]) -> Tensor:
        """Project the first token of images or of captions: (B, D) float32 unit rows."""
        pooled = parts["tokens"][:, 0] if modality == "image" else parts["first"]
        heads = self.uni if space == "uni" and self.has_uni else None
        projected = {"image": self.model.vision_proj, "text": self.model.text_proj} if heads is None else heads
        return F.normalize(projected[modality](pooled).float(), dim=-1)


def _scratch(config: StudentConfig, tokenizer: Any) -> Any:
    """Make a small BLIP with random weights."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    return BlipForImageTextRetrieval(
        BlipConfig(
            image_text_hidden_size=config.width,
            projection_dim=config.width,
            vision_config={
                "image_size": config.image_size,
                "patch_size": config.patch_size,
                **config.tower("image"),
                "initializer_range": 0.02,  # the default of 1e-10 expects pre-trained weights
            },
            text_config={
                "vocab_size": len(tokenizer),
                **config.tower("text"),
                "encoder_hidden_size": config.image_width,
                "max_position_embeddings": config.context,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "sep_token_id": tokenizer.eos_token_id,
            },
        )
    )
