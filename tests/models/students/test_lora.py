"""Low-rank adapters: nothing changes at first, only they and the heads learn, and merged they are the same model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from cusa.errors import ConfigError
from cusa.models import student as students
from cusa.models.config import LoraConfig, SgrafConfig, StudentConfig
from cusa.models.students import lora

CAPTIONS = ["a red square", "a blue circle, left of a red square", "two green triangles", "a yellow star on grass"]
SMALL = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)
LORA = LoraConfig(rank=2, alpha=6.0)
KINDS = ["dual-encoder", "x2vlm", "blip"]


def _make(kind: str, settings: LoraConfig = LORA) -> Any:
    config = SMALL.model_copy(update={"kind": kind, "lora": settings, "cross_head": True})
    return students.create(config, captions=CAPTIONS, uni=True, seed=0).eval()


@torch.no_grad()
def _rows(student: Any) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in CAPTIONS]
    out = student(torch.stack([student.image_transform(picture) for picture in pictures]), student.tokenize(CAPTIONS))
    rows = {name: out[name] for name in ("image", "text", "image_uni", "text_uni")}
    return rows | ({"match": student.match(out["image_parts"], out["text_parts"])} if student.reranks else {})


@torch.no_grad()
def _move(student: Any) -> None:
    """Move what learns, as a training would."""
    torch.manual_seed(1)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_add__changes_no_embedding_and_leaves_adapters_and_heads_to_learn(kind: str) -> None:
    plain, student = _make(kind, LoraConfig()), _make(kind)
    for name, rows in _rows(plain).items():
        torch.testing.assert_close(_rows(student)[name], rows, rtol=0, atol=0)
    towers = (*student.tower("image"), *student.tower("text"))
    learning = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    inside = {name for name in learning if name.startswith(towers)}
    assert inside == {name for name, _ in student.named_parameters() if "lora_" in name}
    before = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    assert learning - inside == {name for name in before if not name.startswith(towers)}
    for modality in ("image", "text"):
        assert any(name.startswith(student.tower(modality)) for name in inside)
    _move(student)
    for name, rows in _rows(plain).items():  # every output hears of its adapters
        assert (_rows(student)[name] - rows).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_merged__saved_and_loaded_it_gives_the_same_rows_under_the_plain_names(kind: str, tmp_path: Path) -> None:
    student = _make(kind)
    _move(student)
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model")
    assert again.state_dict().keys() == _make(kind, LoraConfig()).state_dict().keys()
    assert not lora.has_adapters(again)
    for name, rows in _rows(student).items():
        torch.testing.assert_close(_rows(again)[name], rows, rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", [("fc1",), ("q_proj", "fc2")])
def test_add__layers_and_dropout_are_the_recipe_s(targets: tuple[str, ...]) -> None:
    student = _make("dual-encoder", LoraConfig(rank=3, dropout=0.25, targets=targets))
    layers = {name: layer for name, layer in student.named_modules() if hasattr(layer, "lora_A")}
    expected = {
        name.removesuffix(".base_layer")
        for name, layer in student.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.removesuffix(".base_layer").rpartition(".")[2] in targets
    }
    assert set(layers) == expected
    assert len(layers) == 2 * len(targets)
    for layer in layers.values():
        assert layer.lora_dropout["default"].p == 0.25
        assert layer.lora_A["default"].weight.shape[0] == 3


def test_add__adapters_are_of_the_seed_alone() -> None:
    config = SMALL.model_copy(update={"lora": LORA})

    def first(seed: int) -> torch.Tensor:
        made = students.create(config, captions=CAPTIONS, uni=True, seed=seed)
        return next(value for name, value in made.named_parameters() if "lora_A" in name)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = first(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first(0), one)
    assert not torch.equal(first(1), one)


def test_merged__equals_the_formula() -> None:
    student = _make("dual-encoder")
    _move(student)
    name = "backbone.vision_model.encoder.layers.0.self_attn.q_proj"
    state, merged = student.state_dict(), lora.merged_state(student)
    a, b = (state[f"{name}.lora_{part}.default.weight"].double() for part in "AB")
    expected = state[f"{name}.base_layer.weight"].double() + 6.0 / 2 * b @ a
    torch.testing.assert_close(merged[f"{name}.weight"].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(merged[f"{name}.bias"], state[f"{name}.base_layer.bias"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers by an old name
def test_write_adapters__peft_puts_them_on_the_model_it_started_from(tmp_path: Path) -> None:
    started = _make("dual-encoder", LoraConfig())
    started.save(tmp_path / "base")
    student = _make("dual-encoder")
    _move(student)
    student.save(tmp_path / "model")
    base = CLIPModel.from_pretrained(tmp_path / "base").eval()
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "model" / lora.FOLDER)).eval()
    tokens = student.tokenize(CAPTIONS)
    with torch.no_grad():
        theirs = adapted.get_text_features(**tokens).pooler_output
        ours = student.backbone.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    held = load_file(tmp_path / "model" / lora.FOLDER / "adapter_model.safetensors")
    assert len(held) == 2 * 2 * 2  # A and B, queries and values, two towers of one layer
    merged = CLIPModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged.get_text_features(**tokens).pooler_output, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("dual-encoder", {"targets": ("q_prj",)}, r"names 'q_prj', which is no linear layer.*Did you mean 'q_proj'"),
        ("sgraf", {}, r"No linear layer of the image tower is called q_proj.*student\.lora\.targets: fc"),
    ],
)
def test_add__targets_that_are_not_there(kind: str, settings: dict[str, Any], words: str) -> None:
    sgraf = SgrafConfig(regions_from="patches", regions=4, patch=6, width=12, similarity_width=6, min_count=1)
    config = SMALL.model_copy(update={"kind": kind, "sgraf": sgraf, "lora": LORA.model_copy(update=settings)})
    with pytest.raises(ConfigError, match=words):
        students.create(config, captions=CAPTIONS, uni=False, seed=0)


def test_add__a_student_without_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _make("dual-encoder", LoraConfig())
    monkeypatch.setattr(type(student), "tower", students.Student.tower)
    with pytest.raises(ConfigError, match="the towers, and DualEncoder gives none"):
        lora.add(student, LORA, seed=0)


def test_add__without_peft_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'cusa\[lora\]'"):
        _make("dual-encoder")
