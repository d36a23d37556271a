"""CLIP checkpoints of OpenAI and open_clip, against a plain forward pass with the activation and heads of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.students import architecture
from cusa.models.students.architecture import OPEN_CLIP, Architecture
from cusa.models.students.dual_encoder import DualEncoder

CAPTIONS = ["a red square", "Caf\u00e9 &amp; bar", "a dog on grass", "two people at a table with a lamp"]


def _clip(
    *, image: tuple[int, int, int, int] = (128, 2, 16, 2), text: tuple[int, int] = (64, 2), inner: int = 4
) -> dict[str, Tensor]:
    """Draw a CLIP with OpenAI's names: image (width, layers, patch, grid), text (width, layers)."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random) * 0.1

    state: dict[str, Tensor] = {}
    (wide, deep, patch, grid), (narrow, shallow) = image, text
    for tower, width, layers in (("visual.transformer", wide, deep), ("transformer", narrow, shallow)):
        for layer in range(layers):
            block = f"{tower}.resblocks.{layer}"
            sizes = {
                "ln_1": (width,),
                "ln_2": (width,),
                "attn.in_proj": (3 * width, width),
                "attn.out_proj": (width, width),
                "mlp.c_fc": (inner * width, width),
                "mlp.c_proj": (width, inner * width),
            }
            for part, size in sizes.items():
                joint = "_" if part == "attn.in_proj" else "."
                state[f"{block}.{part}{joint}weight"] = draw(*size) + (len(size) == 1)
                state[f"{block}.{part}{joint}bias"] = draw(size[0])
    for norm, width in (("visual.ln_pre", wide), ("visual.ln_post", wide), ("ln_final", narrow)):
        state[f"{norm}.weight"], state[f"{norm}.bias"] = draw(width) + 1, draw(width)
    return state | {
        "visual.class_embedding": draw(wide),
        "visual.positional_embedding": draw(grid * grid + 1, wide),
        "visual.conv1.weight": draw(wide, 3, patch, patch),
        "visual.proj": draw(wide, 24),
        "token_embedding.weight": draw(49408, narrow),
        "positional_embedding": draw(20, narrow),
        "text_projection": draw(narrow, 24),
        "logit_scale": torch.tensor(4.6),
    }


def _norm(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _transformer(state: dict[str, Tensor], x: Tensor, tower: str, heads: int, quick: bool, causal: bool) -> Tensor:
    layer = 0
    while f"{tower}.resblocks.{layer}.ln_1.weight" in state:
        block = f"{tower}.resblocks.{layer}"
        joined = F.linear(
            _norm(state, x, f"{block}.ln_1"), state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]
        )
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, -1))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, state[f"{block}.attn.out_proj.weight"], state[f"{block}.attn.out_proj.bias"])
        hidden = F.linear(
            _norm(state, x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"]
        )
        hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
        x = x + F.linear(hidden, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
        layer += 1
    return x


def _image(state: dict[str, Tensor], pixels: Tensor, heads: int, *, quick: bool) -> Tensor:
    weight = state["visual.conv1.weight"]
    x = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = _transformer(state, _norm(state, x, "visual.ln_pre"), "visual.transformer", heads, quick, causal=False)
    return F.normalize(_norm(state, x[:, 0], "visual.ln_post") @ state["visual.proj"], dim=-1)


def _text(state: dict[str, Tensor], ids: Tensor, heads: int, *, quick: bool) -> Tensor:
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    x = _norm(state, _transformer(state, x, "transformer", heads, quick, causal=True), "ln_final")
    return F.normalize(x[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"], dim=-1)


def _assert_equal(student: Any, state: dict[str, Tensor], *, image_heads: int, text_heads: int, quick: bool) -> None:
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = student.tokenize(CAPTIONS)
    with torch.no_grad():
        expected = _image(state, pixels, image_heads, quick=quick)
        torch.testing.assert_close(student.encode_image(pixels), expected, rtol=0, atol=2e-6)
        expected_text = _text(state, tokens["input_ids"], text_heads, quick=quick)
        torch.testing.assert_close(student.encode_text(tokens), expected_text, rtol=0, atol=2e-6)
        # With the other activation, or other heads, the rows would differ by far more: nothing passes by chance.
        assert (_image(state, pixels, image_heads, quick=not quick) - expected).abs().max() > 1e-4
        assert (_text(state, tokens["input_ids"], text_heads * 2, quick=quick) - expected_text).abs().max() > 1e-4


def test_openai_is_read_by_its_marks_or_by_name(tmp_path: Path) -> None:
    state = _clip()
    torch.save({**state, "input_resolution": torch.tensor(32)}, tmp_path / "marked.pt")
    torch.save({"model": {f"_orig_mod.{name}": value for name, value in state.items()}}, tmp_path / "plain.pt")
    marked, named = students.load(tmp_path / "marked.pt"), students.load(f"{tmp_path}/plain.pt@openai")
    for student in (marked, named):
        _assert_equal(student, state, image_heads=2, text_heads=1, quick=True)
    assert marked.remarks() == ()
    assert named.remarks() == ("plain.pt: '_orig_mod.' removed from the names of its tensors.",)
    tuned = students.create(StudentConfig(name=f"{tmp_path}/plain.pt@openai"), captions=[], uni=True, seed=0)
    assert tuned.remarks() == named.remarks()
    _assert_equal(tuned.eval(), state, image_heads=2, text_heads=1, quick=True)
    tuned.save(tmp_path / "model")
    assert students.load(tmp_path / "model").remarks() == ()


@pytest.mark.parametrize("layout", ["bare", "training", "lightning"])
def test_a_file_that_may_be_anybodys_is_refused_with_the_names_to_choose_from(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "epoch_3.pt"
    state = _clip()
    if layout == "training":
        path_content: dict[str, Any] = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    elif layout == "lightning":
        path_content = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "pytorch-lightning_version": "2.5"}
    else:
        path_content = state
    torch.save(path_content, path)
    with pytest.raises(DataError, match="nothing in it says whose.*epoch_3.pt@openai.*open_clip_config.json"):
        students.load(path)
    with pytest.raises(DataError, match="nothing in it says whose"):
        students.create(StudentConfig(name=str(path)), captions=[], uni=False, seed=0)


@pytest.mark.parametrize(
    ("quick", "image", "heads", "text", "text_heads"),
    [(False, 128, 2, 64, 1), (False, 160, 2, 96, 3), (True, 96, 3, 96, 2)],
    ids=["64 wide", "80 and 32 wide", "32 and 48 wide, quick GELU"],
)
@pytest.mark.parametrize("custom", [False, True])
def test_open_clips_folder_is_read_as_its_configuration_says(
    tmp_path: Path, quick: bool, image: int, heads: int, text: int, text_heads: int, custom: bool
) -> None:
    state = _clip(image=(image, 2, 16, 2), text=(text, 2), inner=5)
    visual = {"width": image, "layers": 2, "patch_size": 16, "image_size": 32, "head_width": image // heads}
    model = {
        "embed_dim": 24,
        "quick_gelu": quick,
        "custom_text": custom,
        "vision_cfg": {**visual, "mlp_ratio": 5.0},
        "text_cfg": {"width": text, "layers": 2, "heads": text_heads, "context_length": 20, "mlp_ratio": 5.0},
    }
    prepared = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "squash", "interpolation": "bilinear"}
    store.write_json(tmp_path / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": prepared})
    apart = ("logit_scale", "logit_bias")
    named = {
        name if name.startswith("visual.") or name in apart or not custom else f"text.{name}": value
        for name, value in {**state, "logit_bias": torch.tensor(-10.0)}.items()
    }
    torch.save(named, tmp_path / "open_clip_pytorch_model.bin")
    for name in (tmp_path, tmp_path / "open_clip_pytorch_model.bin"):
        student = students.load(name)
        _assert_equal(student, state, image_heads=heads, text_heads=text_heads, quick=quick)
        assert "open_clip_config.json" in student.remarks()[0]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    squashed = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
    expected = (squashed - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.5, 0.6, 0.7])[:, None, None]
    np.testing.assert_allclose(student.image_transform(picture), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "vit_so400m"),
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "no_ln_pre", True),
        ("vision_cfg", "layers", [3, 4, 6, 3]),
        ("text_cfg", "hf_model_name", "xlm-roberta-base"),
        ("text_cfg", "hf_tokenizer_name", "bert-base-uncased"),
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "a_field_of_next_year", 1),
        ("model_cfg", "multimodal_cfg", {"width": 1}),
        ("preprocess_cfg", "resize_mode", "longest"),
    ],
)
def test_fields_that_would_compute_otherwise_are_refused_by_name(
    tmp_path: Path, section: str, key: str, value: Any
) -> None:
    content: dict[str, Any] = {"model_cfg": {"embed_dim": 24, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {}}
    target = content["model_cfg"] if section == "model_cfg" else content.get(section, content["model_cfg"].get(section))
    target[key] = value
    store.write_json(tmp_path / "open_clip_config.json", content)
    with pytest.raises(DataError, match=rf"{section}\.{key}"):
        Architecture.from_config(tmp_path / "open_clip_config.json")


@pytest.mark.parametrize("content", [[], {"model_cfg": 3}, {"model_cfg": {}}, {"model_cfg": {"vision_cfg": 1}}])
def test_a_broken_configuration_is_named(tmp_path: Path, content: Any) -> None:
    store.write_json(tmp_path / "open_clip_config.json", content)
    with pytest.raises(DataError, match="no open_clip_config.json"):
        Architecture.from_config(tmp_path / "open_clip_config.json")


def _shapes(name: str) -> dict[str, Tensor]:
    """Return tensors without memory of a published architecture's shapes, after open_clip's own model code."""
    chosen = Architecture.from_open_clip(name)
    image, text = OPEN_CLIP[name]["vision_cfg"], OPEN_CLIP[name]["text_cfg"]
    grid = image["image_size"] // image["patch_size"]
    with torch.device("meta"):
        state = {
            "visual.conv1.weight": torch.empty(image["width"], 3, image["patch_size"], image["patch_size"]),
            "visual.positional_embedding": torch.empty(grid * grid + 1, image["width"]),
            "visual.proj": torch.empty(image["width"], OPEN_CLIP[name]["embed_dim"]),
            "token_embedding.weight": torch.empty(49408, text["width"]),
            "positional_embedding": torch.empty(77, text["width"]),
        }
        for tower, sizes in (("visual.transformer", chosen.image), ("transformer", chosen.text)):
            for layer in range(sizes.layers):
                state[f"{tower}.resblocks.{layer}.mlp.c_fc.weight"] = torch.empty(sizes.inner, sizes.width)
    return state


def test_the_published_numbers() -> None:
    """What a file cannot say, from open_clip's model_configs: width, heads, MLP, text heads, quick GELU."""
    expected = {
        "ViT-B-32": (512, 12, 3072, 8, False),
        "ViT-B-32-quickgelu": (512, 12, 3072, 8, True),
        "ViT-B-16-plus-240": (640, 14, 3584, 10, False),
        "ViT-L-14-336": (768, 16, 4096, 12, False),
        "ViT-H-14": (1024, 16, 5120, 16, False),
        "ViT-H-14-378-quickgelu": (1024, 16, 5120, 16, True),
        "ViT-g-14": (1024, 16, 6144, 16, False),
        "ViT-bigG-14": (1280, 16, 8192, 20, False),
        "ViT-e-14": (1280, 16, 15360, 20, False),
    }
    for name, (embed, heads, inner, text_heads, quick) in expected.items():
        chosen = Architecture.from_open_clip(name)
        got = (chosen.width, chosen.image.heads, chosen.image.inner, chosen.text.heads, chosen.quick_gelu)
        assert got == (embed, heads, inner, text_heads, quick), name
        assert chosen.image_size % chosen.patch_size == 0


@pytest.mark.parametrize("name", ["ViT-bigG-14", "ViT-g-14", "ViT-B-32-plus-256"])
def test_sizes_that_are_one_architectures_alone_need_no_name(name: str) -> None:
    state = _shapes(name)
    if f"{name}-quickgelu" in OPEN_CLIP:
        with pytest.raises(DataError, match=rf"x.pt@{name} or x.pt@{name}-quickgelu"):
            architecture.choose(state, path=Path("x.pt"))
        return
    chosen = architecture.choose(state, path=Path("x.pt"))
    assert chosen.name == name
    assert name in chosen.remarks[0]


def test_names_and_sizes_that_do_not_go_together(tmp_path: Path) -> None:
    state = _shapes("ViT-L-14-336")
    with pytest.raises(
        DataError, match=r"no ViT-L-14: image size 336 instead of 224.*ViT-L-14-336, ViT-L-14-336-quick"
    ):
        architecture.choose(state, path=Path("x.pt"), named="ViT-L-14")
    with pytest.raises(ConfigError, match="no architecture 'ViT-L-15'.*Did you mean 'ViT-L-1"):
        architecture.choose(state, path=Path("x.pt"), named="ViT-L-15")
    assert not architecture.choose(state, path=Path("x.pt"), named="ViT-L-14-336").quick_gelu
    assert architecture.choose(state, path=Path("x.pt"), named="openai").quick_gelu
    torch.save(_clip(), tmp_path / "tiny.pt")
    with pytest.raises(DataError, match="is no ViT-B-32: image width 128 instead of 768"):
        students.load(f"{tmp_path}/tiny.pt@ViT-B-32")


@pytest.mark.parametrize(("image", "text"), [(96, 64), (128, 96)])
def test_widths_that_openais_heads_do_not_divide_are_refused(tmp_path: Path, image: int, text: int) -> None:
    torch.save(_clip(image=(image, 1, 16, 2), text=(text, 1)), tmp_path / "odd.pt")
    with pytest.raises(DataError, match="tower is 96 wide.*64 do not divide.*FILE@ARCHITECTURE"):
        students.load(f"{tmp_path}/odd.pt@openai")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("visual.trunk.patch_embed.weight", "an image tower of timm"),
        ("visual.layer1.0.conv1.weight", "a ResNet image tower"),
        ("text.transformer.embeddings.word_embeddings.weight", "a text tower of Hugging Face"),
        ("text_decoder.token_embedding.weight", "CoCa"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, name: str, what: str) -> None:
    torch.save({**_clip(), name: torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=what):
        DualEncoder.from_checkpoint(tmp_path / "other.pt")
