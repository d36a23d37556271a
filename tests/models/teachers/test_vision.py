"""Hugging Face vision models as teachers, against the models and processors of transformers themselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models.teachers.registry import load_teacher, weights_digest
from tests import towers

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CROP = {"do_resize": True, "resample": 3, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"do_resize": True, "size": {"height": 32, "width": 32}}
PROCESSORS = {
    "dinov2": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, **CROP, **IMAGENET},
    "mlcd": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, **CROP},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "resample": 3, **SQUARE, **HALF},
    "dinov3": {"image_processor_type": "DINOv3ViTImageProcessor", "resample": 2, **SQUARE, **IMAGENET},
}


def _config(kind: str) -> Any:
    import transformers as t

    if kind == "siglip":
        text = {**SMALL, "num_hidden_layers": 1, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
        return t.SiglipConfig(vision_config=SMALL, text_config=text)
    made = {"dinov2": t.Dinov2Config, "mlcd": t.MLCDVisionConfig, "dinov3": t.DINOv3ViTConfig}
    return made[kind](**SMALL)


@pytest.fixture(params=list(PROCESSORS))
def official(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    """A model of random weights, saved in the official format."""
    from transformers import AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(_config(request.param)).eval()
    folder = tmp_path / f"{request.param}-tiny"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[request.param]))
    return request.param, model, folder


def _pixels(kind: str, pictures: list[Image.Image]) -> torch.Tensor:
    """Resize, cut and normalise with Pillow and numpy alone, as the official PIL processors do for these sizes."""
    processor = PROCESSORS[kind]
    mean, std = (
        np.array(processor.get(f"image_{what}", default)) for what, default in (("mean", _MEAN), ("std", _STD))
    )
    rows = []
    for picture in pictures:
        if "shortest_edge" in processor["size"]:
            short = processor["size"]["shortest_edge"]
            scale = short / min(picture.size)
            picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), processor["resample"])
            left, top = (picture.width - 32) // 2, (picture.height - 32) // 2
            picture = picture.crop((left, top, left + 32, top + 32))
        else:
            picture = picture.resize((32, 32), processor["resample"])
        rows.append(((np.asarray(picture) / 255 - mean) / std).transpose(2, 0, 1))
    return torch.tensor(np.stack(rows), dtype=torch.float32)


_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_load_vision__rows_are_the_models_pooled_output(official: tuple[str, Any, Path]) -> None:
    kind, model, folder = official
    rng = np.random.default_rng(1)
    sizes = [(64, 96), (80, 80), (48, 160)]  # sides whose cut is even, where every library cuts alike
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
    with torch.inference_mode():
        forward = getattr(model, "get_image_features", model)
        expected = forward(pixel_values=_pixels(kind, pictures)).pooler_output.double().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    teacher = load_teacher(str(folder), "image")
    rows = teacher.encode(pictures)
    assert rows.shape == (3, teacher.width) == (3, 32)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=2e-5)
    said = teacher.provenance()
    assert said["teacher"] == teacher.name == f"{kind}-tiny"
    assert said["weights_sha256"] == store.sha256_folder(folder) == weights_digest(str(folder))


def test_load_vision__patches_of_any_number(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, Siglip2Model

    folder = towers.write_image("siglip2", tmp_path / "naflex")
    rng = np.random.default_rng(1)
    sizes = [(64, 96), (30, 300), (300, 20), (2, 3)]
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
    read = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        inputs = read(pictures, return_tensors="pt")
        expected = (
            Siglip2Model.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output.double().numpy()
        )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    teacher = load_teacher(str(folder), "image")
    np.testing.assert_allclose(teacher.encode(pictures), expected, rtol=0, atol=2e-5)
    assert "16 patches of 8 x 8 pixels at most" in teacher.provenance()["preprocessing"]


def test_load_vision__what_is_no_vision_model_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    small = {key: value for key, value in SMALL.items() if key not in ("image_size", "patch_size")}
    BertModel(BertConfig(vocab_size=50, **small)).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match="gives no pooled output for images"):
        load_teacher(str(tmp_path / "bert"), "image")
    (tmp_path / "bert/model.safetensors").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(DataError, match=r"bert/model\.safetensors is a web page"):
        load_teacher(str(tmp_path / "bert"), "image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded as a Hugging Face model"):
        load_teacher(str(tmp_path / "empty"), "image")
    with pytest.raises(DataError, match="no folder of that name is here"):
        load_teacher("nobody/no-such-model", "image")
