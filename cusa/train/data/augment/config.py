"""The options of augmentation; no heavy import."""

from pydantic import Field, field_validator

from cusa.manifests.settings import Settings

FLIP_WORDS = (
    *("left", "right", "leftmost", "rightmost", "lefthand", "righthand", "leftward", "rightward", "leftwards"),
    *("rightwards", "clockwise", "counterclockwise", "anticlockwise"),
)
"""English words of which a mirrored picture makes the opposite true."""


class AugmentConfig(Settings):
    """How pictures change from epoch to epoch; by default they do not. Teachers and validation see them unchanged."""

    crop: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="smallest share of a picture's area that a random crop keeps, scaled to the student's input; 0 = "
        "the crop of evaluation",
    )
    crop_ratio: float = Field(
        default=4 / 3,
        ge=1,
        le=10,
        description="a crop is at most so many times as wide as tall, or as tall as wide; where a student squashes "
        "pictures, in the picture's own proportions",
    )
    flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how often a picture is mirrored, of images none of whose captions has a word of `flip_words`",
    )
    flip_words: tuple[str, ...] = Field(
        default=FLIP_WORDS, description="whole words, in small or capital letters; those of other languages go here"
    )
    brightness: float = Field(default=0.0, ge=0, le=1, description="a picture's is multiplied by up to 1 +- this")
    contrast: float = Field(default=0.0, ge=0, le=1, description="likewise")
    saturation: float = Field(
        default=0.0, ge=0, le=1, description="likewise; 1 reaches grey, and captions name colours"
    )
    hue: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="turned by up to +- this of a circle; captions name colours: 0.02, not 0.1",
    )
    patches: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of a picture's patches that the image tower does not see in training (FLIP): faster, where "
        "the tower allows it",
    )

    @field_validator("flip_words")
    @classmethod
    def _are_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word.strip() or word != word.strip():
                raise ValueError(f"{word!r} is no word; leave it out, or write it without spaces around it")
        return words

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def on(self) -> bool:
        """Whether anything changes."""
        return bool(self.crop or self.flip or self.recolours or self.patches)

    def sentence(self) -> str:
        """Return what changes, in words, for the user; empty if nothing does."""
        parts = []
        if self.crop:
            parts.append(f"crops of at least {self.crop:.0%} of the area")
        if self.flip:
            parts.append(f"{self.flip:.0%} mirrored")
        if self.recolours:
            names = [name for name in ("brightness", "contrast", "saturation", "hue") if getattr(self, name)]
            parts.append(f"other {', '.join(names)}")
        if self.patches:
            parts.append(f"{self.patches:.0%} of the patches left out")
        return f"Pictures change from epoch to epoch: {', '.join(parts)}." if parts else ""
