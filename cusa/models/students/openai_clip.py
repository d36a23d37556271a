"""Checkpoints with OpenAI's names, and the authors' CUSA checkpoints that contain one, as models of transformers.

Legend: W width of a tower, D width of the embedding.
"""

import gzip
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cusa.errors import DataError, did_you_mean
from cusa.models.students.architecture import OPENAI_MARKS, Architecture, Tower, num_layers

VOCABULARY = 49_408
"""Ids of OpenAI's vocabulary: 256 bytes, 256 bytes that end a word, 48,894 merges, the start and the end mark."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_OTHER_MODELS = {
    "visual.layer1.": "a ResNet image tower (RN50...)",
    "visual.trunk.": "an image tower of timm",
    "visual.attn_pool.": "a pooling by attention",
    "text.transformer.embeddings.": "a text tower of Hugging Face",
    "text.transformer.encoder.": "a text tower of Hugging Face",
    "text_decoder.": "a decoder of captions (CoCa)",
}
"""Beginnings of tensors' names that only other models than a CLIP of two plain transformers have."""
_HEADS = {f"{space}_{modality}": f"{space}.{modality}" for space in ("cross", "uni") for modality in ("image", "text")}
_TEMPERATURE = re.compile(r"^(tau|(cross|uni)_(the_softlabel_)?tau(_image|_text)?)$")
_LEAVES = ("weight", "bias")
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_IMAGE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # spelt so in transformers
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")  # x @ P in OpenAI's code, a Linear in transformers


class Parts(NamedTuple):
    """A checkpoint taken apart."""

    clip: dict[str, Tensor]
    """CLIP's tensors."""
    heads: dict[str, Tensor]
    """CUSA's, as `cross.image.linear.weight`...; empty for CLIP alone."""
    temperatures: dict[str, float]
    """Learned ones, under the release's names; empty for CLIP alone."""
    of_authors: bool
    """Whether it is the authors' CUSA model, which builds on OpenAI's CLIP."""


def split(state: Mapping[str, Tensor]) -> Parts:
    """Take a checkpoint apart: CLIP, CUSA's heads under our names, the learned temperatures.

    Args:
        state: CLIP alone, or the authors' CUSA model, where CLIP's names begin with `clip_model.`.

    Raises:
        DataError: if the authors' model has keys that are none of these.
    """
    if not any(name.startswith("clip_model.") for name in state):
        return Parts(dict(state), {}, {}, of_authors=False)
    clip, heads, temperatures, unknown = {}, {}, {}, []
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        which = _HEADS.get(owner.removeprefix("ln_").removesuffix("_projection"))
        if name.startswith("clip_model."):
            clip[name.removeprefix("clip_model.")] = value
        elif which is not None:
            heads[f"{which}.{'layernorm' if owner.startswith('ln_') else 'linear'}.{leaf}"] = value.float()
        elif _TEMPERATURE.match(name):
            temperatures[name] = float(value)
        else:
            unknown.append(name)
    if unknown:
        raise DataError(
            f"The checkpoint has {len(unknown)} keys that are neither CLIP's, nor a head, nor a temperature: "
            f"{', '.join(sorted(unknown)[:5])}. It is of another model."
        )
    return Parts(clip, heads, temperatures, of_authors=True)


def plain(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Check CLIP's names and return its tensors under OpenAI's; `text.`, open_clip's second layout, is removed.

    Args:
        state: of OpenAI, or of open_clip; `logit_scale` may be missing (the authors' release drops it).
        path: the file, for messages.

    Raises:
        DataError: if it is of another model, or keys are missing or unexpected (with the nearest known name).
    """
    for start, what in _OTHER_MODELS.items():
        if any(name.startswith(start) for name in state):
            raise DataError(
                f"{path} is a CLIP with {what}; only two plain transformers (ViT-...) are read. If its authors offer "
                "it in transformers' format, give that hub name or folder.",
                path=path,
            )
    if "text.token_embedding.weight" in state:
        state = {name.removeprefix("text."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if name != "logit_bias"}  # of SigLIP's loss
    _check_names(state, path)
    return state


def to_hugging_face(state: Mapping[str, Tensor], architecture: Architecture | None = None) -> nn.Module:
    """Turn a state dict with OpenAI's names into Hugging Face's CLIP.

    Features are equal to the reference's to about 2e-6. Half precision becomes float32.

    Args:
        state: what `plain` gave.
        architecture: of the file; OpenAI's if None.

    Raises:
        DataError: if the shapes do not fit together, or OpenAI's heads do not divide a width.
    """
    from transformers import CLIPConfig, CLIPModel

    architecture = architecture or Architecture.from_shapes(state)
    state = {name: value for name, value in state.items() if name not in OPENAI_MARKS}
    activation = "quick_gelu" if architecture.quick_gelu else "gelu"
    config = CLIPConfig(
        projection_dim=architecture.width,
        vision_config={
            "image_size": architecture.image_size,
            "patch_size": architecture.patch_size,
            **_tower(architecture.image),
            "projection_dim": architecture.width,
            "hidden_act": activation,
        },
        text_config={
            "vocab_size": architecture.vocabulary,
            "max_position_embeddings": architecture.context,
            **_tower(architecture.text),
            "projection_dim": architecture.width,
            "hidden_act": activation,
            # The marks are the last two ids; padding is the end mark, as Hugging Face's tokenizer has it.
            "bos_token_id": architecture.vocabulary - 2,
            "eos_token_id": architecture.vocabulary - 1,
            "pad_token_id": architecture.vocabulary - 1,
        },
    )
    model = CLIPModel(config)
    ours = _renamed(state)
    ours.setdefault("logit_scale", model.logit_scale.detach())
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        mismatches = [line.strip() for line in str(error).splitlines()[1:]]
        raise DataError(f"The checkpoint does not fit together: {'; '.join(mismatches[:3])}") from error
    return model


def tokenizer(context: int = 77) -> Any:
    """Return CLIP's tokenizer, made from the merges that lie in this package.

    Its ids equal the reference's on all texts once `cusa.models.captions.repair` has run, which the reference does
    first and Hugging Face does not.

    Args:
        context: tokens at most, the two marks included.
    """
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    packed = resources.files("cusa.models") / "vocabularies" / "clip-merges.txt.gz"
    pairs: Any = [tuple(line.split()) for line in gzip.decompress(packed.read_bytes()).decode().splitlines()]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in pairs), _START, _END]
    assert len(tokens) == VOCABULARY, len(tokens)
    ids = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=ids, merges=pairs, model_max_length=context)


def _tower(sizes: Tower) -> dict[str, int]:
    return {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
    }


def _expected(state: Mapping[str, Tensor]) -> set[str]:
    """Return every key that a CLIP of this depth has."""
    leaves = ["attn.in_proj_weight", "attn.in_proj_bias", *(f"{part}.{leaf}" for part in _BLOCK for leaf in _LEAVES)]
    towers = {tower: max(1, num_layers(state, tower)) for tower in ("transformer", "visual.transformer")}
    blocks = {
        f"{tower}.resblocks.{layer}.{leaf}" for tower, num in towers.items() for layer in range(num) for leaf in leaves
    }
    return {*_TEXT, *_IMAGE, *blocks}


def _check_names(state: Mapping[str, Tensor], path: Path) -> None:
    expected = _expected(state)
    missing = sorted(expected - set(state) - {"logit_scale"})
    unexpected = sorted(set(state) - expected - set(OPENAI_MARKS))
    if missing or unexpected:
        problems = [f"{len(missing)} keys are missing, the first {missing[0]!r}"] if missing else []
        if unexpected:
            hint = did_you_mean(unexpected[0], expected)
            problems.append(f"{len(unexpected)} are not CLIP's, the first {unexpected[0]!r}. {hint}".strip())
        raise DataError(
            f"{path} is no CLIP checkpoint with OpenAI's names: {'; '.join(problems)} A Hugging Face model is given by "
            "its folder or hub name.",
            missing=missing,
            unexpected=unexpected,
        )


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, raw in state.items():
        value = raw.float().T.contiguous() if name in _TRANSPOSED else raw.float()
        plain = _TEXT.get(name) or _IMAGE.get(name)
        if plain is not None:
            ours[plain] = value
            continue
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        layer, _, rest = name.partition("resblocks.")[2].partition(".")
        place = f"{tower}.encoder.layers.{layer}"
        if rest.startswith("attn.in_proj_"):
            leaf = rest.removeprefix("attn.in_proj_")
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                ours[f"{place}.self_attn.{part}_proj.{leaf}"] = rows.clone()
        else:
            part, _, leaf = rest.rpartition(".")
            ours[f"{place}.{_BLOCK[part]}.{leaf}"] = value
    return ours
