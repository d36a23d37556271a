import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPModel

from cusa.errors import ConfigError, DataError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.students.dual_encoder import DualEncoder, _normalise

CAPTIONS = ["A red square.", "a blue circle, left of a red square", "Two green triangles!", "a yellow star on grass"]
SMALL = StudentConfig(
    image_size=16, patch_size=8, image_width=16, image_layers=1, text_width=16, text_layers=1, head_width=8, width=12
)


def _make(*, cross: bool = False, uni: bool = True, seed: int = 0) -> students.Student:
    return students.create(SMALL.model_copy(update={"cross_head": cross}), captions=CAPTIONS, uni=uni, seed=seed)


def _pictures(count: int = 4) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(count)]


def _pixels(student: students.Student) -> torch.Tensor:
    return torch.stack([student.image_transform(picture) for picture in _pictures()])


@pytest.mark.parametrize("cross", [False, True])
def test_forward_equals_each_tower_and_the_heads_by_hand(cross: bool) -> None:
    student = _make(cross=cross).eval()
    assert isinstance(student, DualEncoder)
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    out = student(pixels, tokens)
    clip = student.backbone
    image = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    # The text tower's vector is the one at the end mark, found here by counting instead of by its id.
    hidden = clip.text_model(**tokens).last_hidden_state
    last = tokens["attention_mask"].sum(1) - 1
    text = clip.text_projection(hidden[torch.arange(4), last])
    state = student.heads.state_dict()
    for end, features in (("image", image), ("text", text)):
        for space in ("cross", "uni"):
            rows = features
            if space == "uni" or cross:
                name = f"{space}.{end}"
                rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                rows = rows @ state[f"{name}.linear.weight"].T + state[f"{name}.linear.bias"]
            rows = rows / rows.norm(dim=1, keepdim=True)
            got = out[end if space == "cross" else f"{end}_uni"]
            torch.testing.assert_close(got, rows, rtol=1e-4, atol=1e-5)
            alone = student.encode_image(pixels, space) if end == "image" else student.encode_text(tokens, space)
            torch.testing.assert_close(alone, got, rtol=1e-5, atol=1e-6)


def test_each_tower_runs_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    student = _make(cross=True)
    assert isinstance(student, DualEncoder)
    calls = []
    for name in ("get_image_features", "get_text_features"):
        real = getattr(student.backbone, name)
        monkeypatch.setattr(
            student.backbone, name, lambda real=real, name=name, **kw: (calls.append(name), real(**kw))[1]
        )
    assert set(student(_pixels(student), student.tokenize(CAPTIONS))) == {"image", "text", "image_uni", "text_uni"}
    assert sorted(calls) == ["get_image_features", "get_text_features"]


def test_padding_does_not_change_a_caption() -> None:
    student = _make().eval()
    alone = student.encode_text(student.tokenize(CAPTIONS[:1]))
    together = student.encode_text(student.tokenize(CAPTIONS))
    torch.testing.assert_close(alone[0], together[0], rtol=1e-5, atol=1e-6)


def test_without_uni_heads_the_spaces_are_one() -> None:
    student = _make(uni=False).eval()
    assert not student.has_uni
    assert student.space_of("uni-modal") == ("cross", "cross (no uni-modal head)")
    pixels = _pixels(student)
    assert set(student(pixels, student.tokenize(CAPTIONS))) == {"image", "text"}
    torch.testing.assert_close(student.encode_image(pixels, "uni"), student.encode_image(pixels, "cross"))
    assert _make(uni=True).space_of("uni-modal") == ("uni", "uni")


def test_new_weights_depend_on_the_seed_alone_and_towers_not_on_heads() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    plain = _make(uni=False).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    headed = _make(uni=True, cross=True).state_dict()
    assert all(torch.equal(headed[name], value) for name, value in plain.items())
    again = _make(uni=True, cross=True).state_dict()
    assert all(torch.equal(again[name], value) for name, value in headed.items())
    other = _make(seed=9).state_dict()
    assert not torch.equal(other["backbone.visual_projection.weight"], plain["backbone.visual_projection.weight"])
    assert abs(float(headed["heads.uni.text.linear.weight"].std()) - 0.02) < 0.004


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("uni", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, cross: bool, uni: bool) -> None:
    student = _make(cross=cross, uni=uni).eval()
    student.save(tmp_path / "run" / "model")
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    for name in (tmp_path / "run", str(tmp_path / "run" / "model")):
        read = students.load(name)
        assert not read.training
        assert (read.has_uni, read.width, read.name) == (uni, 12, "scratch")
        torch.testing.assert_close(_pixels(read), pixels, rtol=0, atol=0)
        assert {k: v.tolist() for k, v in read.tokenize(CAPTIONS).items()} == {k: v.tolist() for k, v in tokens.items()}
        for key, value in student(pixels, tokens).items():
            torch.testing.assert_close(read(pixels, tokens)[key], value, rtol=0, atol=0)


def test_the_folder_is_one_that_transformers_reads(tmp_path: Path) -> None:
    student = _make(uni=False).eval()
    student.save(tmp_path / "model")
    clip = CLIPModel.from_pretrained(tmp_path / "model").eval()
    pixels, tokens = _pixels(student), student.tokenize(CAPTIONS)
    theirs = F.normalize(clip(pixel_values=pixels, **tokens).text_embeds, dim=-1)
    torch.testing.assert_close(student.encode_text(tokens), theirs, rtol=1e-5, atol=1e-6)


def test_a_hugging_face_folder_is_a_student(tmp_path: Path) -> None:
    student = _make(uni=False).eval()
    student.save(tmp_path / "model")
    (tmp_path / "model" / students.CARD).unlink()
    read = students.load(tmp_path / "model")
    assert not read.has_uni
    tokens = student.tokenize(CAPTIONS)
    torch.testing.assert_close(read.encode_text(tokens), student.encode_text(tokens), rtol=0, atol=0)
    tuned = students.create(SMALL.model_copy(update={"name": str(tmp_path / "model")}), captions=[], uni=True, seed=0)
    assert tuned.has_uni
    assert tuned.training


def test_pixels_are_the_same_on_every_device() -> None:
    student = _make()
    arrays = torch.from_numpy(np.stack([student.image_array(picture) for picture in _pictures()]))
    torch.testing.assert_close(_normalise(arrays, student.preprocess), student.pixels(arrays), rtol=0, atol=1e-6)


def test_frozen_temperature_of_the_tower() -> None:
    names = [name for name, parameter in _make().named_parameters() if not parameter.requires_grad]
    assert names == ["backbone.logit_scale"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no heads", "does not hold the heads"),
        ("other heads", "does not hold the heads"),
        ("cut heads", "does not hold the heads"),
        ("cut weights", "cannot be loaded"),
        ("cut card", "no readable JSON"),
        ("future", "format 99"),
        ("kind", "kind 'sundial'"),
    ],
)
def test_broken_folders_are_refused(tmp_path: Path, damage: str, words: str) -> None:
    folder = tmp_path / "model"
    _make().save(folder)
    card, heads = folder / students.CARD, folder / "heads.safetensors"
    if damage == "no heads":
        heads.unlink()
    elif damage == "other heads":
        save_file({f"x.{name}": value for name, value in load_file(heads).items()}, heads)
    elif damage == "cut heads":
        heads.write_bytes(heads.read_bytes()[:100])
    elif damage == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    elif damage == "cut card":
        card.write_text(card.read_text()[:20])
    else:
        fields = json.loads(card.read_text())
        card.write_text(json.dumps({**fields, **({"format": 99} if damage == "future" else {"kind": "sundial"})}))
    with pytest.raises(DataError, match=words):
        students.load(folder)


def test_names_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        students.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a run nor a model"):
        students.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="not yet saved a model"):
        students.load(tmp_path)


def test_usa_without_its_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"student\.uni_head=auto or loss\.beta=0"):
        students.create(SMALL.model_copy(update={"uni_head": "never"}), captions=CAPTIONS, uni=True, seed=0)


def test_empty_captions_are_refused() -> None:
    with pytest.raises(DataError, match="Nothing is left"):
        _make().tokenize(["a word", "..."])
