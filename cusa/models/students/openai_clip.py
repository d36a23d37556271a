"""Checkpoints in OpenAI's CLIP format, and the authors' CUSA checkpoints that contain one, as students of ours.

Legend: W width of a tower, D width of the embedding.
"""

import gzip
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cusa.errors import DataError, nearest

VOCABULARY = 49_408
"""Ids of OpenAI's vocabulary: 256 bytes, 256 bytes that end a word, 48,894 merges, the start and the end mark."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_ARCHIVE_ONLY = ("input_resolution", "context_length", "vocab_size")
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


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, running no code from it.

    Args:
        path: `.safetensors`, or what `torch.save` wrote: a state dict, or a dict that holds one under `model` or
            `state_dict`, as the authors' release writes them. `module.` before every key is dropped.

    Raises:
        DataError: if the file is none of these, or would need code to be read.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"There is no checkpoint {path}.", path=path) from error
    except Exception as error:  # a damaged archive raises almost anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} is not read: {first} Only tensors and plain values are taken from a file; a pickle that names "
            "other objects could run code. Where you trust the file, write it anew once, in an environment of its own: "
            "torch.save(model.state_dict(), 'weights.pt') (for a TorchScript archive of OpenAI: "
            "torch.save(torch.jit.load(PATH).state_dict(), 'weights.pt')), and give that file.",
            path=path,
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} holds no state dict (names with tensors), also not under 'model' or 'state_dict'.")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Take a checkpoint apart: OpenAI's CLIP, CUSA's heads under our names, the learned temperatures.

    Args:
        state: CLIP alone, or the authors' CUSA model, where CLIP's names begin with `clip_model.`.

    Returns:
        CLIP's state dict with OpenAI's names; the heads as `cross.image.linear.weight`...; the temperatures under the
        release's names. The last two are empty for CLIP alone.
    """
    if not any(name.startswith("clip_model.") for name in state):
        return dict(state), {}, {}
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
    return clip, heads, temperatures


def to_hugging_face(state: Mapping[str, Tensor]) -> nn.Module:
    """Turn a state dict with OpenAI's names into Hugging Face's CLIP, sizes taken from the shapes.

    Features are equal to the reference's to about 2e-6. Half precision becomes float32. Heads of attention are 64 wide,
    as in all of OpenAI's transformers; ResNet towers are not supported.

    Args:
        state: OpenAI's names; `logit_scale` may be missing (the authors' release drops it).

    Raises:
        DataError: if keys are missing or unexpected (with the nearest known name), or of shapes that do not fit.
    """
    from transformers import CLIPConfig, CLIPModel

    state = {name: value for name, value in state.items() if name not in _ARCHIVE_ONLY}
    if "visual.layer1.0.conv1.weight" in state:
        raise DataError("The checkpoint is a CLIP with a ResNet image tower (RN50...); only ViT towers are supported.")
    _check_names(state)
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    words, text_width = state["token_embedding.weight"].shape
    embed = state["visual.proj"].shape[1]
    config = CLIPConfig(
        projection_dim=embed,
        vision_config={
            "image_size": grid * patch,
            "patch_size": patch,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": _layers(state, "visual.transformer"),
            "num_attention_heads": max(1, width // 64),
            "projection_dim": embed,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "vocab_size": words,
            "max_position_embeddings": len(state["positional_embedding"]),
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": _layers(state, "transformer"),
            "num_attention_heads": max(1, text_width // 64),
            "projection_dim": embed,
            "hidden_act": "quick_gelu",
            # The marks are the last two ids; padding is the end mark, as Hugging Face's tokenizer has it.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": words - 1,
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


def _layers(state: Mapping[str, Tensor], tower: str) -> int:
    return len([name for name in state if re.fullmatch(rf"{re.escape(tower)}\.resblocks\.\d+\.ln_1\.weight", name)])


def _expected(state: Mapping[str, Tensor]) -> set[str]:
    """Return every key that a CLIP of this depth has."""
    leaves = ["attn.in_proj_weight", "attn.in_proj_bias", *(f"{part}.{leaf}" for part in _BLOCK for leaf in _LEAVES)]
    towers = {tower: max(1, _layers(state, tower)) for tower in ("transformer", "visual.transformer")}
    blocks = {
        f"{tower}.resblocks.{layer}.{leaf}" for tower, num in towers.items() for layer in range(num) for leaf in leaves
    }
    return {*_TEXT, *_IMAGE, *blocks}


def _check_names(state: Mapping[str, Tensor]) -> None:
    expected = _expected(state)
    missing = sorted(expected - set(state) - {"logit_scale"})
    unexpected = sorted(set(state) - expected)
    if missing or unexpected:
        problems = [f"{len(missing)} keys are missing, the first {missing[0]!r}"] if missing else []
        if unexpected:
            hint = nearest(unexpected[0], expected).partition("Allowed:")[0].strip()
            problems.append(f"{len(unexpected)} are not CLIP's, the first {unexpected[0]!r}. {hint}".strip())
        raise DataError(
            f"This is no CLIP checkpoint in OpenAI's format: {'; '.join(problems)} A Hugging Face model is given by "
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
