"""What a student can be told; no heavy import, so that `cusa --help` answers at once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StudentConfig(BaseModel):
    """The model that learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        default="scratch",
        min_length=1,
        description="hub name or folder of a Hugging Face dual encoder; `scratch` = a CLIP of random weights",
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
    head_std: float = Field(default=0.02, gt=0, description="deviation of a new head's weights")
    captions: Literal["clean", "none"] = Field(default="clean", description="captions before tokenising")
    max_words: int = Field(default=64, ge=1, description="words kept of a cleaned caption (paper: 64)")

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

    @model_validator(mode="after")
    def _sizes_fit(self) -> "StudentConfig":
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        for tower in ("image_width", "text_width"):
            if getattr(self, tower) % self.head_width:
                raise ValueError(f"{tower} {getattr(self, tower)} is no multiple of head_width {self.head_width}")
        return self
