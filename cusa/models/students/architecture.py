"""What a CLIP checkpoint does not say of itself: the activation, the heads, and how pictures are prepared.

The names of the tensors are the same in OpenAI's and in open_clip's files, and models of equal shapes may compute with
other activations. So the user names the architecture, or open_clip's `open_clip_config.json` or the marks of OpenAI's
archives do, or it is the only one of these shapes; it is never guessed.

Legend: W width of a tower, D width of the embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests.storage import store
from cusa.models.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

OPENAI = "openai"
"""Names OpenAI's architecture: quick GELU, heads 64 wide, MLPs four times as wide as their tower."""
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
"""Tensors that only OpenAI's archives have."""
_HEAD_WIDTH = 64
_MLP_RATIO = 4.0


@dataclass(frozen=True)
class Tower:
    """The sizes of one transformer."""

    width: int
    """W."""
    layers: int
    heads: int
    inner: int
    """Width of the MLPs' hidden layer."""


@dataclass(frozen=True)
class Architecture:
    """A CLIP of two transformers."""

    name: str
    image: Tower
    text: Tower
    width: int
    """D."""
    image_size: int
    """Pixels along each side of the input."""
    patch_size: int
    """Pixels along each side of a patch."""
    context: int
    """Tokens a caption at most."""
    vocabulary: int
    quick_gelu: bool
    """Whether the MLPs compute x sigmoid(1.702 x) or the exact GELU."""
    preprocess: Preprocess = field(compare=False)
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What a person should know of how the file was understood."""

    @classmethod
    def from_shapes(cls, state: Mapping[str, Tensor]) -> Self:
        """Return OpenAI's architecture with a checkpoint's sizes.

        Args:
            state: with OpenAI's names.

        Raises:
            DataError: if a tower's width is no multiple of 64.
        """
        shapes = _Shapes.of(state)
        for modality, width in (("image", shapes.image_width), ("text", shapes.text_width)):
            if width % _HEAD_WIDTH:
                raise DataError(
                    f"The {modality} tower is {width} wide, which OpenAI's heads of {_HEAD_WIDTH} do not divide: the "
                    "checkpoint is of another maker. Name its architecture: FILE@ARCHITECTURE, one of open_clip's "
                    f"({', '.join(OPEN_CLIP)}), or give a folder with its open_clip_config.json.",
                    width=width,
                )
        return cls(
            name=OPENAI,
            image=Tower(shapes.image_width, shapes.image_layers, shapes.image_width // _HEAD_WIDTH, shapes.image_inner),
            text=Tower(shapes.text_width, shapes.text_layers, shapes.text_width // _HEAD_WIDTH, shapes.text_inner),
            width=shapes.width,
            image_size=shapes.image_size,
            patch_size=shapes.patch_size,
            context=shapes.context,
            vocabulary=shapes.vocabulary,
            quick_gelu=True,
            preprocess=Preprocess(shapes.image_size),
        )

    @classmethod
    def from_open_clip(cls, name: str) -> Self:
        """Return one of open_clip's architectures; pictures are prepared with OpenAI's mean and deviation.

        Raises:
            ConfigError: if there is no such architecture.
        """
        if name not in OPEN_CLIP:
            raise ConfigError(
                f"There is no architecture {name!r} for a CLIP checkpoint: {nearest(name, (OPENAI, *OPEN_CLIP))}. "
                "Models with a ResNet, timm, Hugging Face or CoCa tower are not read.",
                architecture=name,
            )
        remark = (
            f"Read as open_clip's {name}, pictures prepared with OpenAI's mean and deviation: a few of open_clip's "
            "weights learned with others, which their open_clip_config.json says (give the folder that holds both)."
        )
        return cls._from_model(name, OPEN_CLIP[name], {}, (remark,))

    @classmethod
    def from_config(cls, path: Path) -> Self:
        """Read an `open_clip_config.json`, as open_clip's repositories have it.

        Raises:
            DataError: if it is broken, or a field asks for what is not supported.
        """
        content = store.read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
            raise DataError(f"{path} is no open_clip_config.json: it has no model_cfg.", path=path)
        try:
            return cls._from_model(
                str(path), content["model_cfg"], content.get("preprocess_cfg") or {}, (f"Read as {path} says.",)
            )
        except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
            if isinstance(error, (ConfigError, DataError)):
                raise
            raise DataError(f"{path} is no open_clip_config.json that can be read ({error!r}).", path=path) from error

    @classmethod
    def _from_model(
        cls, name: str, model: Mapping[str, Any], preprocess: Mapping[str, Any], remarks: tuple[str, ...]
    ) -> Self:
        image, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
        _refuse_other_fields(name, "vision_cfg", image, _IMAGE_FIELDS)
        _refuse_other_fields(name, "text_cfg", text, _TEXT_FIELDS)
        _refuse_other_fields(name, "model_cfg", model, _MODEL_FIELDS)
        _refuse_other_fields(name, "preprocess_cfg", preprocess, _PREPROCESS_FIELDS)
        if isinstance(image.get("layers"), list):
            raise DataError(f"{name}: vision_cfg.layers is {image['layers']}, a ResNet's; only ViT towers are read.")
        image = {"layers": 12, "width": 768, "head_width": 64, "patch_size": 16, "image_size": 224, **image}
        text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, **text}
        size = _one_side(name, image["image_size"])
        return cls(
            name=name,
            image=Tower(
                image["width"],
                image["layers"],
                image["width"] // image["head_width"],
                int(image["width"] * (image.get("mlp_ratio") or _MLP_RATIO)),
            ),
            text=Tower(
                text["width"], text["layers"], text["heads"], int(text["width"] * (text.get("mlp_ratio") or _MLP_RATIO))
            ),
            width=model["embed_dim"],
            image_size=size,
            patch_size=_one_side(name, image["patch_size"]),
            context=text["context_length"],
            vocabulary=text["vocab_size"],
            quick_gelu=bool(model.get("quick_gelu", False)),
            preprocess=Preprocess(
                _one_side(name, preprocess.get("size") or size),
                fit="squash" if preprocess.get("resize_mode") == "squash" else "crop",
                resample=preprocess.get("interpolation") or "bicubic",
                mean=_per_channel(preprocess.get("mean"), CLIP_MEAN),
                std=_per_channel(preprocess.get("std"), CLIP_STD),
            ),
            remarks=remarks,
        )

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether a checkpoint has the sizes of this architecture."""
        return not self.differences(state)

    def differences(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return where a checkpoint's sizes differ from these, in words."""
        shapes, expected = _Shapes.of(state), self._shapes
        return [
            f"{part.name.replace('_', ' ')} {getattr(shapes, part.name)} instead of {getattr(expected, part.name)}"
            for part in fields(_Shapes)
            if getattr(shapes, part.name) != getattr(expected, part.name)
        ]

    @property
    def _shapes(self) -> "_Shapes":
        return _Shapes(
            image_width=self.image.width,
            image_layers=self.image.layers,
            image_inner=self.image.inner,
            text_width=self.text.width,
            text_layers=self.text.layers,
            text_inner=self.text.inner,
            width=self.width,
            image_size=self.image_size,
            patch_size=self.patch_size,
            context=self.context,
            vocabulary=self.vocabulary,
        )


def choose(
    state: Mapping[str, Tensor], *, path: Path, named: str = "", config: Path | None = None, openai: bool = False
) -> Architecture:
    """Decide on the architecture of a checkpoint.

    Args:
        state: CLIP's tensors with OpenAI's names, OpenAI's marks included.
        path: the file, for messages.
        named: what the user named: `openai` or one of open_clip's; empty if nothing.
        config: the `open_clip_config.json` that belongs to the file.
        openai: whether the file is known to be of OpenAI's kind, as the checkpoints of CUSA's authors are.

    Raises:
        ConfigError: if there is no architecture of that name.
        DataError: if the sizes are not those of the architecture, or the file may be of more than one.
    """
    if named and named != OPENAI:
        chosen = Architecture.from_open_clip(named)
    elif config is not None:
        chosen = Architecture.from_config(config)
    elif named == OPENAI or openai or any(mark in state for mark in OPENAI_MARKS):
        return Architecture.from_shapes(state)
    else:
        return _only_one(state, path)
    if differences := chosen.differences(state):
        others = [name for name in OPEN_CLIP if Architecture.from_open_clip(name).fits(state)]
        raise DataError(
            f"{path} is no {chosen.name}: {'; '.join(differences[:4])}. "
            + (f"Its sizes are those of {', '.join(others)}." if others else "No known architecture has its sizes."),
            path=path,
            architecture=chosen.name,
        )
    return chosen


def _only_one(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """Return the one architecture of these sizes; all that OpenAI published are open_clip's with either activation."""
    fitting = [name for name in OPEN_CLIP if Architecture.from_open_clip(name).fits(state)]
    if len(fitting) == 1:
        return Architecture.from_open_clip(fitting[0])
    sizes = f"those of {', '.join(fitting)}" if fitting else "no published model's"
    raise DataError(
        f"{path} has the names of a CLIP, and nothing in it says whose: OpenAI's and open_clip's differ in "
        f"activation and heads. Its sizes are {sizes}. Name the architecture: "
        f"{' or '.join(f'{path}@{name}' for name in (OPENAI, *fitting))}; or give the folder of the file and its "
        "open_clip_config.json.",
        path=path,
        allowed=[OPENAI, *fitting],
    )


@dataclass(frozen=True)
class _Shapes:
    """The sizes that a checkpoint's tensors show."""

    image_width: int
    image_layers: int
    image_inner: int
    text_width: int
    text_layers: int
    text_inner: int
    width: int
    image_size: int
    patch_size: int
    context: int
    vocabulary: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        patch = state["visual.conv1.weight"].shape[-1]
        grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        words, text_width = state["token_embedding.weight"].shape
        return cls(
            image_width=state["visual.conv1.weight"].shape[0],
            image_layers=num_layers(state, "visual.transformer"),
            image_inner=len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
            text_width=text_width,
            text_layers=num_layers(state, "transformer"),
            text_inner=len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
            width=state["visual.proj"].shape[1],
            image_size=grid * patch,
            patch_size=patch,
            context=len(state["positional_embedding"]),
            vocabulary=words,
        )


def num_layers(state: Mapping[str, Tensor], tower: str) -> int:
    """Return how many blocks a tower has, `transformer` or `visual.transformer`."""
    start = f"{tower}.resblocks."
    return len({name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)})


def _per_channel(value: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = value or default
    return float(red), float(green), float(blue)


def _one_side(name: str, size: Any) -> int:
    if isinstance(size, int):
        return size
    sides = set(size)
    if len(sides) != 1:
        raise DataError(f"{name} reads pictures of {size} pixels; only squares are supported.", size=size)
    return int(sides.pop())


_MODEL_FIELDS: dict[str, Any] = {
    "embed_dim": ...,
    "vision_cfg": ...,
    "text_cfg": ...,
    "quick_gelu": (False, True),
    "init_logit_scale": ...,
    "init_logit_bias": ...,
    "custom_text": (False, True),
    "nonscalar_logit_scale": (False,),
}
"""Fields of open_clip's model_cfg that are read, or have no part in an embedding (...), and values that change none."""
_IMAGE_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"), ...),
    **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "output_tokens"), ...),
    **dict.fromkeys(("ls_init_value", "act_kwargs", "norm_kwargs", "timm_model_name"), (None, {})),
    **dict.fromkeys(("attentional_pool", "no_ln_pre", "final_ln_after_pool", "qk_norm"), (False,)),
    "pos_embed_type": ("learnable",),
    "pool_type": ("tok",),
    "block_type": (None, "default"),
}
_TEXT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pad_id"), ...),
    **dict.fromkeys(("eos_id", "output_tokens"), ...),
    **dict.fromkeys(("ls_init_value", "act_kwargs", "norm_kwargs", "hf_model_name", "hf_tokenizer_name"), (None, {})),
    **dict.fromkeys(("tokenizer_mode", "tokenizer_kwargs"), (None, {})),
    **dict.fromkeys(("embed_cls", "no_causal_mask", "final_ln_after_pool", "proj_bias", "qk_norm"), (False,)),
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "block_type": (None, "default"),
}
_PREPROCESS_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("size", "mean", "std", "fill_color"), ...),
    "mode": ("RGB", None),
    "interpolation": ("bicubic", "bilinear", None),
    "resize_mode": ("shortest", "squash", None),
}


def _refuse_other_fields(name: str, section: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for key, value in given.items():
        values = allowed.get(key, ())
        if values is not ... and value not in values:
            means = f"only {', '.join(map(repr, values))} is" if values else "it is not"
            raise DataError(
                f"{name}: {section}.{key} is {value!r}, and {means} supported. Convert the model to transformers' "
                "format and give that folder, or choose another model.",
                key=f"{section}.{key}",
            )


def _model(
    embed: int, image: tuple[int, ...], text: tuple[int, int, int], *, mlp_ratio: float = _MLP_RATIO
) -> dict[str, Any]:
    """Return an entry of `OPEN_CLIP` of (size, patch, width, layers[, head width]) and (width, heads, layers)."""
    size, patch, width, layers, *head_width = image
    return {
        "embed_dim": embed,
        "vision_cfg": {
            "image_size": size,
            "patch_size": patch,
            "width": width,
            "layers": layers,
            "head_width": head_width[0] if head_width else _HEAD_WIDTH,
            "mlp_ratio": mlp_ratio,
        },
        "text_cfg": dict(zip(("width", "heads", "layers"), text, strict=True)),
    }


_PLAIN = {
    "ViT-S-32": (384, (224, 32, 384, 12), (384, 6, 12)),
    "ViT-S-32-alt": (256, (224, 32, 384, 12), (256, 4, 10)),
    "ViT-S-16": (384, (224, 16, 384, 12), (384, 6, 12)),
    "ViT-S-16-alt": (256, (224, 16, 384, 12), (256, 4, 10)),
    "ViT-M-32": (512, (224, 32, 512, 12), (512, 8, 12)),
    "ViT-M-32-alt": (384, (224, 32, 512, 12), (384, 6, 12)),
    "ViT-M-16": (512, (224, 16, 512, 12), (512, 8, 12)),
    "ViT-B-32": (512, (224, 32, 768, 12), (512, 8, 12)),
    "ViT-B-32-256": (512, (256, 32, 768, 12), (512, 8, 12)),
    "ViT-B-32-plus-256": (640, (256, 32, 896, 12), (640, 10, 12)),
    "ViT-B-16": (512, (224, 16, 768, 12), (512, 8, 12)),
    "ViT-B-16-plus": (640, (224, 16, 896, 12), (640, 10, 12)),
    "ViT-B-16-plus-240": (640, (240, 16, 896, 12), (640, 10, 12)),
    "ViT-L-16": (768, (224, 16, 1024, 24), (768, 12, 12)),
    "ViT-L-16-320": (768, (320, 16, 1024, 24), (768, 12, 12)),
    "ViT-L-14": (768, (224, 14, 1024, 24), (768, 12, 12)),
    "ViT-L-14-280": (768, (280, 14, 1024, 24), (768, 12, 12)),
    "ViT-L-14-336": (768, (336, 14, 1024, 24), (768, 12, 12)),
    "ViT-H-16": (1024, (224, 16, 1280, 32, 80), (1024, 16, 24)),
    "ViT-H-14": (1024, (224, 14, 1280, 32, 80), (1024, 16, 24)),
    "ViT-H-14-378": (1024, (378, 14, 1280, 32, 80), (1024, 16, 24)),
}
_WIDE = {
    "ViT-g-14": (1024, (224, 14, 1408, 40, 88), (1024, 16, 24), 4.3637),
    "ViT-bigG-14": (1280, (224, 14, 1664, 48, 104), (1280, 20, 32), 4.9231),
    "ViT-e-14": (1280, (224, 14, 1792, 56, 112), (1280, 20, 36), 8.5715),
}
_QUICK = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-378", "ViT-bigG-14")
_MODELS = {
    **{name: _model(*sizes) for name, sizes in _PLAIN.items()},
    **{name: _model(embed, image, text, mlp_ratio=ratio) for name, (embed, image, text, ratio) in _WIDE.items()},
}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    **_MODELS,
    **{f"{name}-quickgelu": {**_MODELS[name], "quick_gelu": True} for name in _QUICK},
}
"""open_clip's architectures of two plain transformers with OpenAI's vocabulary, as its `model_configs` give them."""
