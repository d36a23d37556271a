"""The configuration of a student; no heavy import, so that `cusa --help` answers at once."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from cusa.manifests.settings import Settings

STUDENT_KINDS = ("dual-encoder", "heads", "two-tower", "late-interaction", "sgraf", "x2vlm", "blip")
"""Kinds of students that come with the package; see `cusa.models.student.KINDS`."""

_OF_TOWERS = ("two-tower", "late-interaction")
"""Kinds of students that are made of `student.towers`."""

EXPORT_FORMATS = ("folder", "hf", "sentence-transformers", "onnx")
"""What a student can be exported to."""


CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:Class`: a class of another package."""


class SgrafConfig(Settings):
    """The similarity networks; the defaults are the reference's."""

    module: Literal["sgr", "saf"] = Field(default="sgr", description="reasoning, or filtration")
    regions_from: str = Field(
        default="shard",
        min_length=1,
        description="`shard` = .npy members; `patches` = the picture's own patches; else hub name or folder of a "
        "Hugging Face vision model, frozen, whose grid features are the regions",
    )
    regions: int = Field(default=36, ge=1, description="regions of an image at most; a square number for pictures")
    region_width: int = Field(default=2048, ge=1, description="numbers of a region in the shards")
    patch: int = Field(default=8, ge=1, description="patches: pixels a side of each")
    word_width: int = Field(default=300, ge=1, description="numbers of a word's vector")
    width: int = Field(default=1024, ge=1, description="of the shared embedding")
    similarity_width: int = Field(default=256, ge=1, description="of a similarity vector")
    steps: int = Field(default=3, ge=1, description="SGR: steps of reasoning")
    dropout: float = Field(default=0.4, ge=0, lt=1, description="of word vectors and pooling")
    margin: float = Field(default=0.2, ge=0, description="of the hinge loss")
    negatives: Literal["hardest", "all"] = Field(default="hardest", description="of the hinge loss")
    min_count: int = Field(default=4, ge=1, description="words seen less often are unknown (reference: 4)")
    vocabulary: str = Field(default="", description="JSON of the reference's vocabulary; empty = built from the data")
    max_unknown: float = Field(
        default=0.05, ge=0, le=1, description="share of unknown words above which a remark is made"
    )


class MatchingConfig(Settings):
    """X2-VLM: a dual encoder with a fusion encoder on top."""

    size: Literal["scratch", "base", "large"] = Field(
        default="scratch", description="scratch = the sizes above; base and large as published"
    )
    image_size: int = Field(default=384, ge=16, description="base, large: pixels a side")
    fusion_layers: int = Field(default=2, ge=1, description="scratch: layers that read both")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of the text and fusion layers")
    tokenizer: str = Field(
        default="bert-base-uncased", min_length=1, description="base, large: hub name or folder of the tokenizer"
    )


class LoraConfig(Settings):
    """Low-rank adapters in the towers' attention; everything else in the towers stands still, heads learn."""

    rank: int = Field(default=0, ge=0, description="of each adapter; 0 = none, the towers' own weights learn")
    alpha: float = Field(default=16.0, gt=0, description="an adapter counts alpha / rank times")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of an adapter's input")
    targets: tuple[str, ...] = Field(
        default=(),
        description="last parts of the names of the linear layers that get one; empty = what makes the attention's "
        "queries and values (q_proj, v_proj, query, value, qkv, q, v, q_lin, v_lin, Wqkv)",
    )


class HeadsConfig(Settings):
    """Projections that bring two encoders to one width; CUSA's heads stand on them."""

    kind: Literal["mlp", "linear"] = Field(
        default="mlp", description="of each modality's projection: two layers with GELU between them, or one"
    )
    width: int = Field(default=512, ge=4, description="of the shared embedding")
    hidden: int = Field(default=512, ge=4, description="mlp: width of the layer between")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the hidden layer, or of a linear one's input")
    image_table: str = Field(
        default="",
        description="kind heads: table of the work folder whose rows stand for the images, a teacher's or imported; "
        "empty = the only one of images",
    )
    text_table: str = Field(default="", description="kind heads: likewise, for the captions")
    image_encoder: str = Field(
        default="",
        description="kind heads: what makes such a row of a new image, as `cusa extract-teachers --image` takes it; "
        "empty = what made the table, where the table remembers it and it is no class",
    )
    text_encoder: str = Field(default="", description="kind heads: likewise, of a new text")

    def projections(self) -> dict[str, Any]:
        """Return what decides on the weights: the tables and encoders apart."""
        return self.model_dump(include={"kind", "width", "hidden", "dropout"})


class ImageTowerConfig(Settings):
    """The image encoder of a student of two towers."""

    name: str = Field(
        default="",
        description="hub name (@REVISION may follow) or folder of a vision model or CLIP, or module:Class of your own",
    )
    mode: Literal["frozen", "lora", "learn"] = Field(
        default="frozen", description="stands still, learns by low-rank adapters (student.lora), or learns as a whole"
    )
    pooling: Literal["own", "cls", "mean"] = Field(
        default="own", description="the model's own pooled output, its first token, or the mean of its patches"
    )
    max_patches: int = Field(
        default=0,
        ge=0,
        description="of SigLIP 2's NaFlex: patches of a picture at most, its proportions kept; 0 = as its folder says "
        "(256)",
    )


class TextTowerConfig(Settings):
    """The text encoder of a student of two towers."""

    name: str = Field(
        default="",
        description="hub name (@REVISION may follow) or folder of a sentence-transformers model, another text model or "
        "a CLIP, or module:Class of your own",
    )
    mode: Literal["frozen", "lora", "learn"] = Field(
        default="frozen", description="stands still, learns by low-rank adapters (student.lora), or learns as a whole"
    )
    pooling: Literal["own", "cls", "mean", "max", "lasttoken"] = Field(
        default="own",
        description="of the tokens: as the sentence-transformers folder says (mean where none says), or one of these",
    )
    max_tokens: int = Field(default=0, ge=0, description="tokens of a caption at most; 0 = as the model says")


class TowersConfig(Settings):
    """Two encoders that never met, side by side."""

    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()


class LateConfig(Settings):
    """Late interaction: an image and a caption score by the similarities of its patches and its tokens (MaxSim)."""

    width: int = Field(default=128, ge=2, description="numbers of a patch's and of a token's vector (ColBERT: 128)")
    average: Literal["tokens", "patches", "both"] = Field(
        default="tokens",
        description="the score is the mean over tokens of the best patch (ColBERT), the mean over patches of the best "
        "token (FILIP's image-to-text), or the mean of both",
    )
    leave_out: tuple[Literal["special", "punctuation"], ...] = Field(
        default=(), description="tokens that do not count: the tokenizer's marks, punctuation, or both"
    )
    pooled_weight: float = Field(
        default=1.0,
        ge=0,
        description="of InfoNCE over the pooled embeddings beside that over the scores; they find candidates for "
        "re-ranking and search, and 0 leaves them untrained",
    )


class StudentConfig(Settings):
    """The model that learns."""

    kind: str = Field(
        default="dual-encoder",
        min_length=1,
        description="dual-encoder, two-tower, late-interaction, heads, sgraf, x2vlm, blip, or module:Class "
        "(docs/students.md)",
    )
    name: str = Field(
        default="scratch",
        min_length=1,
        description="hub name, folder or checkpoint file it starts from; `scratch` = random weights",
    )
    revision: str = Field(default="", description="hub revision; empty = the default branch")
    cross_head: bool = Field(
        default=False,
        description="LayerNorm + Linear for the cross-modal embedding (the authors' release has it, the paper not)",
    )
    uni_head: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="LayerNorm + Linear for the uni-modal embedding that USA teaches; auto = if USA's weight is not 0",
    )
    base_loss: Literal["own", "infonce"] = Field(
        default="own", description="what CUSA is added to: the model's own loss, or InfoNCE on its scores"
    )
    head_std: float = Field(default=0.02, gt=0, description="deviation of a new head's weights")
    captions: Literal["clean", "none"] = Field(default="clean", description="captions before tokenising")
    max_words: int = Field(default=64, ge=1, description="words kept of a cleaned caption (paper: 64)")
    max_tokens: int = Field(
        default=0,
        ge=0,
        description="dual-encoder: tokens of a caption at most, marks included; 0 = as many as its text tower has "
        "positions for (CLIP 77, SigLIP 64, Long-CLIP 248)",
    )
    max_patches: int = Field(
        default=0,
        ge=0,
        description="dual-encoder of SigLIP 2's NaFlex: patches of a picture at most, its proportions kept; 0 = as its "
        "folder says (256)",
    )

    image_size: int = Field(default=64, ge=8, description="scratch: pixels a side of the input")
    patch_size: int = Field(default=16, ge=1, description="scratch: pixels a side of a patch")
    image_width: int = Field(default=128, ge=8, description="scratch: width of the image tower")
    image_layers: int = Field(default=3, ge=1, description="scratch: layers of the image tower")
    text_width: int = Field(default=128, ge=8, description="scratch: width of the text tower")
    text_layers: int = Field(default=2, ge=1, description="scratch: layers of the text tower")
    head_width: int = Field(default=32, ge=4, description="scratch: width of an attention head, both towers")
    width: int = Field(default=128, ge=4, description="scratch: width of the shared embedding")
    context: int = Field(default=40, ge=4, description="scratch: tokens a caption at most, the two marks included")
    vocabulary: int = Field(default=5000, ge=8, description="scratch: words at most, the most frequent ones")

    towers: TowersConfig = TowersConfig()
    heads: HeadsConfig = HeadsConfig()
    late: LateConfig = LateConfig()
    lora: LoraConfig = LoraConfig()
    sgraf: SgrafConfig = SgrafConfig()
    x2vlm: MatchingConfig = MatchingConfig()

    @model_validator(mode="after")
    def _adapters_have_a_rank(self) -> "StudentConfig":
        if self.kind in _OF_TOWERS and bool(self.adapted) != bool(self.lora.rank):
            raise ValueError(
                f"lora.rank is {self.lora.rank}, towers.image.mode {self.towers.image.mode!r} and towers.text.mode "
                f"{self.towers.text.mode!r}; a tower of mode 'lora' needs a rank (8, say), and a rank such a tower"
            )
        return self

    @model_validator(mode="after")
    def _reading_has_its_key(self) -> "StudentConfig":
        if self.kind in STUDENT_KINDS and self.kind != "dual-encoder":
            for key, tower in (("max_patches", "image"), ("max_tokens", "text")):
                if value := getattr(self, key):
                    own = f"; of a {self.kind} it is towers.{tower}.{key}" if self.kind in _OF_TOWERS else ""
                    raise ValueError(f"{key} is {value}, which is of kind dual-encoder{own}; set it to 0")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> "StudentConfig":
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        for tower in ("image_width", "text_width"):
            if getattr(self, tower) % self.head_width:
                raise ValueError(f"{tower} {getattr(self, tower)} is no multiple of head_width {self.head_width}")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """The `module:Class` names of other people's code that this student is made of."""
        names = (
            self.kind,
            self.towers.image.name,
            self.towers.text.name,
            self.heads.image_encoder,
            self.heads.text_encoder,
        )
        return tuple(name for name in names if CLASS_NAME.fullmatch(name))

    @property
    def adapted(self) -> tuple[Literal["image", "text"], ...]:
        """The towers that learn by low-rank adapters."""
        if self.kind not in _OF_TOWERS:
            return ("image", "text") if self.lora.rank else ()
        modes: dict[Literal["image", "text"], str] = {"image": self.towers.image.mode, "text": self.towers.text.mode}
        return tuple(modality for modality, mode in modes.items() if mode == "lora")

    def tower(self, modality: Literal["image", "text"]) -> dict[str, int]:
        """Return the sizes of a scratch transformer, by Hugging Face's names for them."""
        width, layers = (
            (self.image_width, self.image_layers) if modality == "image" else (self.text_width, self.text_layers)
        )
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // self.head_width,
        }
