import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cusa.errors import DataError
from cusa.models import student as students
from cusa.models.captions import repair
from cusa.models.config import StudentConfig
from cusa.models.students import openai_clip, vocabulary
from cusa.models.students.dual_encoder import DualEncoder

PATH = Path("weights.pt")
TINY = ["clip_tiny_a", "clip_tiny_b"]
WORDS = vocabulary.build(["a red square on grass"], size=50, context=20)


def _state(golden: Path, name: str = "clip_tiny_a") -> dict[str, Tensor]:
    return load_file(golden / "06_clip" / f"{name}.safetensors")


def _published(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The authors' CUSA model around a CLIP, with the names their code gives."""
    torch.manual_seed(0)
    full: dict[str, Tensor] = {f"clip_model.{name}": value for name, value in state.items()}
    for space in ("cross", "uni"):
        for modality in ("image", "text"):
            full[f"ln_{space}_{modality}_projection.weight"] = torch.rand(width)
            full[f"ln_{space}_{modality}_projection.bias"] = torch.rand(width)
            full[f"{space}_{modality}_projection.weight"] = torch.randn(width, width)
            full[f"{space}_{modality}_projection.bias"] = torch.randn(width)
    return full | {"tau": torch.tensor(0.04), "cross_tau": torch.tensor(0.3), "uni_tau_image": torch.tensor(0.2)}


@pytest.mark.parametrize("name", TINY)
def test_features_and_gradients_equal_the_reference(golden: Path, tmp_path: Path, name: str) -> None:
    arrays = np.load(golden / "06_clip" / f"{name}.npz")
    student = DualEncoder.from_checkpoint(golden / "06_clip" / f"{name}.safetensors@openai", tokenizer=WORDS)
    pixels, tokens = torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["tokens"]).long()
    backbone: Any = student.backbone
    image = backbone.get_image_features(pixel_values=pixels).pooler_output
    text = backbone.get_text_features(input_ids=tokens).pooler_output
    np.testing.assert_allclose(image.detach(), arrays["image_features"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(text.detach(), arrays["text_features"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(image.detach(), arrays["image_features_f64"], rtol=0, atol=2e-5)
    ((image * torch.from_numpy(arrays["R_image"])).sum() + (text * torch.from_numpy(arrays["R_text"])).sum()).backward()
    named = dict(backbone.named_parameters())
    checked = 0
    for key in (key for key in arrays.files if key.startswith("grad/")):
        reference, theirs = arrays[key], key.removeprefix("grad/")
        if theirs.endswith("in_proj_weight"):
            place = openai_clip._renamed({theirs: torch.from_numpy(reference)})
            got = np.concatenate([named[part].grad.numpy() for part in place])
        else:
            ours = next(iter(openai_clip._renamed({theirs: torch.from_numpy(reference)})))
            got = named[ours].grad.numpy()
            got = got.T if theirs in openai_clip._TRANSPOSED else got
        np.testing.assert_allclose(got, reference, rtol=0, atol=5e-5 * np.abs(reference).max())
        checked += 1
    assert checked == 8
    # And through the student: the rows the losses see, also after saving and loading.
    rows = student.encode_image(pixels).detach()
    unit = arrays["image_features"] / np.linalg.norm(arrays["image_features"], axis=1, keepdims=True)
    np.testing.assert_allclose(rows, unit, rtol=0, atol=1e-5)
    student.save(tmp_path / "model")
    torch.testing.assert_close(students.load(tmp_path / "model").encode_image(pixels).detach(), rows, rtol=0, atol=0)


def test_tokenizer_gives_the_reference_ids(golden: Path, tmp_path: Path) -> None:
    kept = json.loads((golden / "06_clip" / "tokenizer.json").read_text())
    tokenizer = openai_clip.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    for made in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = made([repair(text) for text in kept["texts"]], truncation=True, max_length=77)["input_ids"]
        assert ids == kept["ids"]
        assert len(made) == openai_clip.VOCABULARY
    # Without the repair some differ: it is not there for nothing.
    raw = tokenizer(kept["texts"], truncation=True, max_length=77)["input_ids"]
    assert raw != kept["ids"]


def test_repair_leaves_plain_text_alone() -> None:
    assert repair("a dog, 2 cats") == "a dog, 2 cats"
    assert repair("&amp;lt;b&amp;gt; \u201cx\u201d") == '<b> "x"'


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-L/14@336px"])
def test_real_sizes_fit_and_count(golden: Path, name: str) -> None:
    real = json.loads((golden / "06_clip" / "state_dict_shapes.json").read_text())[name]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in real["state_dict"].items()}
        model = openai_clip.to_hugging_face({**state, "logit_scale": torch.empty(())})
    scale = 1  # the authors' copy, which was counted, drops logit_scale
    assert sum(p.numel() for p in model.parameters()) - scale == real["parameters"]
    config: Any = model.config
    assert config.vision_config.num_attention_heads == real["vision_heads"]
    assert config.vision_config.image_size == real["constructor"]["image_resolution"]
    assert config.text_config.num_attention_heads == real["constructor"]["text_heads"]


def test_an_openai_archive_becomes_a_student_of_ours(golden: Path, tmp_path: Path) -> None:
    state = _state(golden)
    torch.manual_seed(3)
    state["token_embedding.weight"] = torch.randn(openai_clip.VOCABULARY, 64) * 0.02
    half = {name: value.half() for name, value in state.items()}
    extra = {"input_resolution": torch.tensor(40), "logit_scale": torch.tensor(4.6)}
    torch.save({**half, **extra}, tmp_path / "ViT-tiny.pt")
    student = students.load(tmp_path / "ViT-tiny.pt")
    assert student.name == "ViT-tiny"
    captions = ["Caf\u00e9 &amp; bar", "word " * 60, "a dog"]
    tokens = student.tokenize(captions)
    assert tokens["input_ids"].shape == (3, 24)
    assert student.truncated == 1
    assert int(tokens["input_ids"].max()) == openai_clip.VOCABULARY - 1
    student.save(tmp_path / "ours")
    again = students.load(tmp_path / "ours")
    torch.testing.assert_close(again.encode_text(again.tokenize(captions)), student.encode_text(tokens))
    tuned = students.create(StudentConfig(name=str(tmp_path / "ViT-tiny.pt")), captions=[], uni=True, seed=0)
    assert tuned.has_uni
    torch.testing.assert_close(tuned.eval().encode_text(tokens), student.encode_text(tokens))


def test_the_authors_checkpoint_keeps_heads_and_temperatures(golden: Path, tmp_path: Path) -> None:
    full = _published(_state(golden), 64)
    path = tmp_path / "checkpoint_best.pth"
    torch.save({"model": {f"module.{k}": v for k, v in full.items()}, "epoch": 3, "config": {"lr": 1e-5}}, path)
    student = DualEncoder.from_checkpoint(path, tokenizer=WORDS)
    assert student.has_uni
    assert student.card["temperatures"] == pytest.approx({"tau": 0.04, "cross_tau": 0.3, "uni_tau_image": 0.2})
    arrays = np.load(golden / "06_clip" / "clip_tiny_a.npz")
    features = torch.from_numpy(arrays["image_features"])
    for space in ("cross", "uni"):
        weight, bias = full[f"ln_{space}_image_projection.weight"], full[f"ln_{space}_image_projection.bias"]
        rows = torch.nn.functional.layer_norm(features, (64,), weight, bias)
        rows = rows @ full[f"{space}_image_projection.weight"].T + full[f"{space}_image_projection.bias"]
        got = student.encode_image(torch.from_numpy(arrays["pixels"]), space).detach()  # type: ignore[arg-type]
        torch.testing.assert_close(got, rows / rows.norm(dim=1, keepdim=True), rtol=1e-4, atol=2e-5)
    student.save(tmp_path / "ours")
    again = students.load(tmp_path / "ours")
    assert isinstance(again, DualEncoder)
    assert again.card["temperatures"] == student.card["temperatures"]
    assert again.space_of("uni-modal") == ("uni", "uni")


def test_wrong_keys_are_named_with_the_nearest(golden: Path) -> None:
    state = _state(golden)
    other = {name.replace("visual.proj", "visual.projection"): value for name, value in state.items()}
    with pytest.raises(DataError, match=r"missing, the first 'visual\.proj'.*Did you mean 'visual\.proj'"):
        openai_clip.plain(other, PATH)
    with pytest.raises(DataError, match="ResNet"):
        openai_clip.plain({**state, "visual.layer1.0.conv1.weight": torch.zeros(1)}, PATH)
    with pytest.raises(DataError, match=r"does not fit together: size mismatch.*text_projection"):
        openai_clip.to_hugging_face({**state, "text_projection": torch.zeros(64, 9)})
    with pytest.raises(DataError, match="neither CLIP's, nor a head"):
        openai_clip.split({"clip_model.x": torch.zeros(1), "blip_head.weight": torch.zeros(1)})


def test_an_unknown_vocabulary_needs_a_tokenizer(golden: Path) -> None:
    with pytest.raises(DataError, match="vocabulary of 300 ids"):
        students.load(f"{golden}/06_clip/clip_tiny_a.safetensors@openai")


def test_preprocessing_of_a_checkpoint_is_the_exact_one(golden: Path) -> None:
    student = DualEncoder.from_checkpoint(golden / "06_clip" / "clip_tiny_a.safetensors@openai", tokenizer=WORDS)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (43, 60, 3), dtype=np.uint8))
    resized = image.resize((int(40 * 60 / 43), 40), Image.Resampling.BICUBIC)
    left = round((resized.width - 40) / 2)
    expected = np.asarray(resized.crop((left, 0, left + 40, 40))).transpose(2, 0, 1)
    np.testing.assert_array_equal(student.image_array(image), expected)
