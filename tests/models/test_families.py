"""Dual encoders of other families: small ones with random weights, saved in the official format, read as students.

Features are compared with what transformers gives for the same folder, input by input.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.students import vocabulary

CAPTIONS = ["a red square", "a blue circle, left of a red square", "two green triangles", "a yellow star on grass"]
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
FAMILIES = {
    "clip": ("CLIP", {"projection_dim": 12}, {}),
    "metaclip_2": ("MetaClip2", {"projection_dim": 12}, {}),
    "siglip": ("Siglip", {}, {"projection_size": 16}),
    "altclip": ("AltCLIP", {"projection_dim": 12}, {"project_dim": 16}),
    "chinese_clip": ("ChineseCLIP", {"projection_dim": 12}, {}),
}


def _save(family: str, folder: Path) -> Any:
    """Write a model as its authors would: weights, configuration, tokenizer, image processor."""
    name, told, of_text = FAMILIES[family]
    tokenizer = vocabulary.build(CAPTIONS, size=60, context=20)
    marks = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("pad", "bos", "eos")}
    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, **of_text, "vocab_size": len(tokenizer), **marks}, vision_config=VISION, **told
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in model.parameters():  # some families start nearly at zero, where every caption is the same
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5] if family == "siglip" else [0.48, 0.46, 0.41]
    size = {"height": 16, "width": 16} if family == "siglip" else {"shortest_edge": 16}
    store.write_json(folder / "preprocessor_config.json", {"size": size, "image_mean": mean, "image_std": mean})
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_is_a_student_and_stays_itself(family: str, tmp_path: Path) -> None:
    model = _save(family, tmp_path / "official")
    student = students.load(tmp_path / "official")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in CAPTIONS]
    pixels, tokens = torch.stack([student.image_transform(picture) for picture in pictures]), student.tokenize(CAPTIONS)
    with torch.no_grad():
        image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        text = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        torch.testing.assert_close(student.encode_image(pixels), image, rtol=0, atol=1e-6)
        torch.testing.assert_close(student.encode_text(tokens), text, rtol=0, atol=1e-6)
        alone = torch.cat([student.encode_text(student.tokenize([caption])) for caption in CAPTIONS])
        torch.testing.assert_close(alone, text, rtol=0, atol=1e-5)
    assert (text[0] - text[1]).abs().max() > 1e-3
    assert image.shape[1] == student.width
    tuned = students.create(
        StudentConfig(name=str(tmp_path / "official"), cross_head=True), captions=[], uni=True, seed=0
    )
    assert set(tuned(pixels, tokens)) == {"image", "text", "image_uni", "text_uni"}
    for end in ("image", "text"):
        assert tuned.tower(end)  # type: ignore[arg-type]
    tuned.eval().save(tmp_path / "tuned")
    again = students.load(tmp_path / "tuned")
    with torch.no_grad():
        torch.testing.assert_close(again.encode_text(tokens, "uni"), tuned.encode_text(tokens, "uni"), rtol=0, atol=0)


def test_siglip_2_without_a_fixed_size_is_refused_with_its_sister(tmp_path: Path) -> None:
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    config = transformers.Siglip2Config(text_config={**TEXT, "vocab_size": 60}, vision_config=vision)
    transformers.Siglip2Model(config).save_pretrained(tmp_path / "naflex")
    vocabulary.build(CAPTIONS, size=60, context=20).save_pretrained(tmp_path / "naflex")
    with pytest.raises(DataError, match="Siglip2Model without a fixed image size.*siglip2-base-patch16-224"):
        students.load(tmp_path / "naflex")


def test_a_model_that_is_no_dual_encoder_is_refused(tmp_path: Path) -> None:
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    ).save_pretrained(tmp_path / "bert")
    vocabulary.build(CAPTIONS, size=60, context=20).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match="is a BertModel, which embeds no pairs"):
        students.load(tmp_path / "bert")


def test_siglip_2_of_a_fixed_size_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    """Its checkpoints are of SigLIP's class; what is new is Gemma's tokenizer: no start mark, filled up to 64 words."""
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz,"]
    tokenizer = transformers.GemmaTokenizer(vocab={letter: row for row, letter in enumerate(letters)}, merges=[])
    config = transformers.SiglipConfig(
        text_config={**TEXT, "projection_size": 16, "vocab_size": len(letters), "pad_token_id": 0, "eos_token_id": 1},
        vision_config=VISION,
    )
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "official")
    tokenizer.save_pretrained(tmp_path / "official")
    size = {"height": 16, "width": 16}
    told = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    store.write_json(tmp_path / "official/preprocessor_config.json", told)
    student = students.load(tmp_path / "official")
    texts = ["a red square", "two dogs"]
    own = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    tokens = student.tokenize(texts)
    assert torch.equal(tokens["input_ids"], own["input_ids"])
    assert tokens["input_ids"].shape == (2, 24)
    with torch.no_grad():
        expected = F.normalize(model.get_text_features(input_ids=own["input_ids"]).pooler_output, dim=-1)
        torch.testing.assert_close(student.encode_text(tokens), expected, rtol=0, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
