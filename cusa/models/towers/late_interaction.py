"""Students that score an image with a caption by its patches and its tokens: two encoders, MaxSim, CUSA's heads.

Legend: B pairs or items, I images, C captions, P patches, L tokens, T of either, V width of an encoder's hidden states,
E of a patch's or a token's vector, D of the pooled embedding.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cusa.errors import ConfigError
from cusa.models.config import StudentConfig
from cusa.models.pixels import grey
from cusa.models.towers.base import HiddenStates, ImageTower, TextTower
from cusa.models.towers.maxsim import Average, maxsim, maxsim_of_pairs
from cusa.models.towers.two_tower import TwoTower

_MARKS = ("##", "\u0120", "\u2581", "</w>", " ")
"""What tokenizers put before or behind a word's characters: WordPiece, byte-level BPE, SentencePiece, CLIP."""


class LateInteraction(TwoTower):
    """Two encoders whose patches and tokens meet only in the score.

    Each hidden state goes through a linear layer without bias to E numbers and to unit length; `pair_scores` is MaxSim
    (see `maxsim`). Beside it stands the pooled embedding of a two-tower student: for USA, for everything that needs one
    vector, and, with `pooled_weight`, for finding candidates.

    Args:
        image: encoder of images that gives hidden states.
        text: encoder of texts that gives hidden states.
        card: what `student.json` holds; `late` as the configuration has it.
        head_std: deviation of new heads' weights; the linear layers start as torch draws them.

    Raises:
        ConfigError: if an encoder gives no hidden states, or tokens are left out of one without a tokenizer of Hugging
            Face.

    Source: Khattab and Zaharia, "ColBERT", SIGIR 2020, arXiv:2004.12832; Yao et al., "FILIP", ICLR 2022,
    arXiv:2111.07783, which takes the class token for a patch; here it is none.
    """

    kind = "late-interaction"
    scores_pairs = True
    reranks = True

    def __init__(self, image: ImageTower, text: TextTower, card: Mapping[str, Any], *, head_std: float = 0.02) -> None:
        super().__init__(image, text, card, head_std=head_std)
        late = card["late"]
        self.pooled_weight = float(late["pooled_weight"])
        self._average: Average = late["average"]
        widths = {"image": _state_width(image), "text": _state_width(text)}
        # Inside the heads, so that whatever writes and reads those has these too.
        self.heads.tokens = nn.ModuleDict(
            {modality: nn.Linear(width, int(late["width"]), bias=False) for modality, width in widths.items()}
        )
        left_out = _left_out(text, late["leave_out"])
        self.register_buffer("_left_out", left_out, persistent=False)

    @classmethod
    def settings(cls, config: StudentConfig) -> dict[str, Any]:
        """Return what the card holds of late interaction."""
        return {"late": config.late.model_dump(mode="json")}

    def frozen(self, modality: Literal["image", "text"]) -> bool:
        """Return false: tables of a tower's outputs hold pooled rows, and the score needs every patch and token."""
        return False

    def image_parts(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `projected` (B, D), `vectors` (B, P, E) of unit length, and `there` (B, P) where not all patches are.

        Args:
            pixels: (B, C, H, W).
        """
        return self._parts(self._states(pixels, "image"), "image")

    def text_parts(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `projected` (B, D), `vectors` (B, L, E) of unit length, and `there` (B, L): which tokens count.

        A caption of which nothing would be left keeps all its tokens.
        """
        states = self._states(tokens, "text")
        parts = self._parts(states, "text")
        there = parts.get("there")
        if there is None:
            parts["there"] = there = torch.ones(states.states.shape[:2], dtype=torch.bool, device=states.states.device)
        left_out: Any = self._left_out
        if len(left_out):
            kept = there & ~torch.isin(tokens["input_ids"], left_out)
            parts["there"] = torch.where(kept.any(1, keepdim=True), kept, there)
        return parts

    def pair_scores(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Score all pairs of I images and C captions: (I, C) in [-1, 1], block by block."""
        return maxsim(
            images["vectors"],
            texts["vectors"],
            image_there_IP=images.get("there"),
            text_there_CL=texts["there"],
            average=self._average,
        )

    def match(self, images: Mapping[str, Tensor], texts: Mapping[str, Tensor]) -> Tensor:
        """Return (N, 2): 0, and the score of image n with caption n."""
        scores_N = maxsim_of_pairs(
            images["vectors"],
            texts["vectors"],
            image_there_NP=images.get("there"),
            text_there_NL=texts["there"],
            average=self._average,
        )
        return torch.stack([torch.zeros_like(scores_N), scores_N], 1)

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `similarity` (B, B), and the pooled embeddings that a term of the loss reads."""
        images, texts = self.image_parts(pixels_BCHW), self.text_parts(tokens)
        out = {"similarity": self.pair_scores(images, texts)}
        if self.pooled_weight:
            out |= {"image": self.embed(images, "cross", "image"), "text": self.embed(texts, "cross", "text")}
        if self.has_uni:
            out |= {"image_uni": self.embed(images, "uni", "image"), "text_uni": self.embed(texts, "uni", "text")}
        return out

    def _states(self, inputs: Any, modality: Literal["image", "text"]) -> HiddenStates:
        if torch.is_grad_enabled() and self.stands_still(modality):
            with torch.no_grad():
                return self._states(inputs, modality)
        tower: Any = self.towers[modality]
        states: HiddenStates = tower.hidden_states(inputs)
        return states

    def _parts(self, states: HiddenStates, modality: Literal["image", "text"]) -> dict[str, Tensor]:
        layers: Any = self.heads.tokens
        vectors_BTE = F.normalize(layers[modality](states.states).float(), dim=-1)
        parts = {"projected": self.heads.project(states.pooled, modality), "vectors": vectors_BTE}
        return parts if states.there is None else {**parts, "there": states.there}


@torch.no_grad()
def _state_width(tower: ImageTower | TextTower) -> int:
    """Encode an empty picture or a text, and return V."""
    if isinstance(tower, ImageTower):
        return int(tower.hidden_states(grey(tower.preprocess)).states.shape[-1])
    return int(tower.hidden_states(tower.tokenize(["a dog on grass"])[0]).states.shape[-1])


def _left_out(text: TextTower, kinds: Sequence[str]) -> Tensor:
    """Return the ids of the tokens that do not count.

    Raises:
        ConfigError: if the encoder has no tokenizer that names them.
    """
    if not kinds:
        return torch.zeros(0, dtype=torch.long)
    tokenizer = text.tokenizer
    if tokenizer is None or "input_ids" not in text.reading["inputs"]:
        raise ConfigError(
            f"student.late.leave_out is {list(kinds)}, and the text encoder {text.card['name']!r} has no tokenizer of "
            "Hugging Face whose tokens have names. Set student.late.leave_out=[], and leave them out in its own "
            "`hidden_states`.",
            key="student.late.leave_out",
        )
    ids: set[int] = set()
    if "special" in kinds:
        marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        unknown = {tokenizer.unk_token_id} - {*marks, tokenizer.pad_token_id}  # a word, though not one it knows
        ids |= {*tokenizer.all_special_ids} - unknown
    if "punctuation" in kinds:
        ids |= {number for token, number in tokenizer.get_vocab().items() if _is_punctuation(token)}
    return torch.tensor(sorted(ids), dtype=torch.long)


def _is_punctuation(token: str) -> bool:
    for mark in _MARKS:
        token = token.removeprefix(mark).removesuffix(mark) or token
    return all(character in string.punctuation for character in token)
