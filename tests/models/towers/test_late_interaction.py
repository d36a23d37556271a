"""A student of late interaction beside what the encoders' own libraries give of patches and tokens."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cusa.errors import ConfigError
from cusa.models import export
from cusa.models import student as students
from cusa.models.towers.late_interaction import LateInteraction
from tests import towers
from tests.models.towers.test_two_tower import COLOURS, LETTERS, config, pixels
from tests.towers import CAPTIONS

PATCHWORK, SPELLING = "tests.towers:Patchwork", "tests.towers:Spelling"


def make(image: str | Path, text: str | Path, *, uni: bool = True, **settings: Any) -> LateInteraction:
    settings = {"late": {"width": 6}, **settings}
    student = students.create(config(image, text, **settings, kind="late-interaction"), captions=[], uni=uni, seed=0)
    assert isinstance(student, LateInteraction)
    return student


@torch.no_grad()
def rows(student: LateInteraction) -> dict[str, torch.Tensor]:
    return student.eval()(pixels(student), student.tokenize(CAPTIONS))


@pytest.mark.parametrize("kind", ["vit", "dinov2", "convnext", "clip", "siglip"])
def test_parts__are_the_models_own_patches_without_class_and_registers(folders: dict[str, Path], kind: str) -> None:
    student = make(folders[kind], folders["sentences"]).eval()
    with torch.no_grad():
        parts = student.image_parts(pixels(student))
        whole = towers.image_model(kind).eval()
        model = getattr(whole, "vision_model", whole)
        hidden = model(pixel_values=pixels(student)).last_hidden_state
    before = {"vit": 1, "dinov2": 1, "clip": 1, "siglip": 0, "convnext": 0}[kind]
    if hidden.ndim == 4:
        hidden = torch.stack([hidden[:, :, y, x] for y in range(hidden.shape[2]) for x in range(hidden.shape[3])], 1)
    states = hidden[:, before:]
    assert parts["vectors"].shape[:2] == (4, 4 if kind == "dinov2" else 16)
    expected = F.normalize(states @ student.heads.tokens["image"].weight.T, dim=-1)  # type: ignore[index,union-attr,operator]
    torch.testing.assert_close(parts["vectors"], expected, rtol=0, atol=1e-5)
    assert "there" not in parts


@pytest.mark.parametrize("kind", ["sentences", "bert", "clip", "siglip"])
def test_parts__padding_changes_no_score(folders: dict[str, Path], kind: str) -> None:
    student = make(folders["vit"], folders[kind], text_pooling="own").eval()
    with torch.no_grad():
        images = student.image_parts(pixels(student))
        together = student.pair_scores(images, student.text_parts(student.tokenize(CAPTIONS)))
        for column, caption in enumerate(CAPTIONS):
            parts = student.text_parts(student.tokenize([caption]))
            alone = student.pair_scores(images, parts)
            torch.testing.assert_close(together[:, column], alone[:, 0], rtol=0, atol=1e-5)
            tokens = student.tokenizer(student.cleaned([caption]))["input_ids"][0]
            if kind != "siglip":
                assert int(parts["there"].sum()) == len(tokens)


def test_forward__what_each_term_reads(folders: dict[str, Path]) -> None:
    student = make(folders["clip"], folders["clip"], cross_head=True)
    out = rows(student)
    assert set(out) == {"similarity", "image", "text", "image_uni", "text_uni"}
    with torch.no_grad():
        images, texts = student.image_parts(pixels(student)), student.text_parts(student.tokenize(CAPTIONS))
        torch.testing.assert_close(out["image"], student.encode_image(pixels(student)))
        pairs = student.match(
            {name: value[[0, 1, 2, 3]] for name, value in images.items()},
            {name: value[[3, 2, 1, 0]] for name, value in texts.items()},
        )
    torch.testing.assert_close(pairs[:, 1], out["similarity"].fliplr().diagonal(), rtol=0, atol=1e-6)
    assert pairs[:, 0].abs().max() == 0
    without = make(folders["clip"], folders["clip"], uni=False, late={"width": 6, "pooled_weight": 0})
    assert set(rows(without)) == {"similarity"}


def test_leave_out__marks_and_punctuation_do_not_count(folders: dict[str, Path]) -> None:
    captions = ["a red square", "a blue circle"]
    student = make(
        folders["vit"], folders["sentences"], late={"leave_out": ["special", "punctuation"]}, captions="none"
    )
    ids = student.tokenizer.get_vocab()
    marks = {*student.tokenizer.all_special_ids} - {student.tokenizer.unk_token_id}
    expected = marks | {number for token, number in ids.items() if not set(token) - set(string.punctuation)}
    assert set(student._left_out.tolist()) == expected
    there = student.text_parts(student.tokenize(captions))["there"]
    assert there.sum(1).tolist() == [3, 3]
    nothing = student.text_parts(student.tokenize([""]))["there"]
    assert nothing.all()  # its marks are all it has
    assert torch.isfinite(
        student.pair_scores(student.image_parts(pixels(student)), student.text_parts(student.tokenize([""])))
    ).all()


@pytest.mark.parametrize("image", ["vit", "convnext", "clip", PATCHWORK])
@pytest.mark.parametrize("text", ["sentences", "clip", SPELLING])
def test_saved_and_loaded__it_is_the_same_to_the_bit(
    folders: dict[str, Path], tmp_path: Path, image: str, text: str
) -> None:
    student = make(folders.get(image, image), folders.get(text, text), late={"width": 5, "average": "both"})  # type: ignore[arg-type]
    expected = rows(student)
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model", trust=[PATCHWORK, SPELLING])
    assert isinstance(again, LateInteraction)
    assert again.card == student.card
    for name, value in rows(again).items():
        assert torch.equal(value, expected[name]), name


def test_name__the_heads_of_another_run_go_on(folders: dict[str, Path], tmp_path: Path) -> None:
    first = make(folders["vit"], folders["sentences"], uni=False)
    with torch.no_grad():
        first.heads.tokens["text"].weight.add_(0.1)  # type: ignore[index,union-attr,operator]
    first.save(tmp_path / "run" / "model")
    second = make(folders["vit"], folders["sentences"], uni=True, name=str(tmp_path / "run"))
    assert torch.equal(rows(second)["similarity"], rows(first)["similarity"])


@pytest.mark.parametrize(
    ("modes", "learning"),
    [({}, set()), ({"text_mode": "lora", "lora": {"rank": 2}}, {"text"}), ({"image_mode": "learn"}, {"image"})],
)
def test_modes__say_what_gets_a_gradient(folders: dict[str, Path], modes: dict[str, Any], learning: set[str]) -> None:
    student = make(folders["vit"], folders["sentences"], uni=False, **modes)
    student(pixels(student), student.tokenize(CAPTIONS))["similarity"].diagonal().sum().backward()
    moved = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert {name for name in moved if "towers" not in name} == {
        f"heads.tokens.{one}.weight" for one in ("image", "text")
    }
    for modality in ("image", "text"):
        assert any(name.startswith(f"towers.{modality}.") for name in moved) == (modality in learning)
        assert not student.frozen(modality)  # type: ignore[arg-type]
        assert student.towers[modality].training == (modality in learning)


def test_export__a_folder_and_the_pooled_embedding_but_no_single_vector(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    student = make(folders["clip"], folders["sentences"]).eval()
    assert export.run(student, "folder", tmp_path / "folder") <= export.TOLERANCE
    assert export.run(student, "sentence-transformers", tmp_path / "st") <= export.TOLERANCE
    for to in ("hf", "onnx"):
        with pytest.raises(ConfigError, match=f"--to {to} takes one vector an item, and this LateInteraction scores"):
            export.run(student, to, tmp_path / to)


def test_create__what_cannot_be(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"'tests\.towers:Colours' gives pooled features alone"):
        make(COLOURS, folders["sentences"])
    with pytest.raises(ConfigError, match=r"'tests\.towers:Letters' gives pooled features alone"):
        make(folders["vit"], LETTERS)
    with pytest.raises(ConfigError, match=r"leave_out is \['special'\], and the text encoder 'tests\.towers:Spelling'"):
        make(folders["vit"], SPELLING, late={"leave_out": ["special"]})
    with pytest.raises(ConfigError, match=r"`hidden_states` of 'tests\.towers:Untidy' gives"):
        make("tests.towers:Untidy", folders["sentences"])


def test_patches__some_are_left_out_of_the_score_too(folders: dict[str, Path]) -> None:
    from cusa.models.pixels import keeping

    student = make(folders["vit"], folders["sentences"]).eval()
    kept = torch.from_numpy(np.sort(np.random.default_rng(0).permuted(np.tile(np.arange(16), (4, 1)), axis=1)[:, :5]))
    with torch.no_grad(), keeping(student.patches(), kept):
        parts = student.image_parts(pixels(student))
    assert parts["vectors"].shape[:2] == (4, 5)


def test_parts__of_pictures_in_their_own_proportions_are_their_patches_alone(folders: dict[str, Path]) -> None:
    student = make(folders["siglip2"], folders["sentences"]).eval()
    pictures = [Image.new("RGB", size, (200, 40, 10)) for size in ((64, 16), (16, 64), (9, 9))]
    inputs = [student.image_transform(picture) for picture in pictures]
    with torch.no_grad():
        texts = student.text_parts(student.tokenize(CAPTIONS))
        together = student.image_parts(torch.stack(inputs))
        grids = towers.naflex_processor()(images=pictures, return_tensors="pt")["spatial_shapes"]
        assert together["there"].sum(1).tolist() == grids.prod(1).tolist()
        scores = student.pair_scores(together, texts)
        for row, one in enumerate(inputs):
            alone = student.image_parts(one[None])
            torch.testing.assert_close(student.pair_scores(alone, texts)[0], scores[row], rtol=0, atol=1e-5)
