"""Two encoders side by side, checked against what their own libraries compute of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cusa.errors import ConfigError, DataError
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.towers.two_tower import TwoTower
from tests import towers
from tests.towers import CAPTIONS

COLOURS, LETTERS = "tests.towers:Colours", "tests.towers:Letters"


def config(image: str | Path, text: str | Path, **settings: Any) -> StudentConfig:
    """Return a small two-tower student's configuration; `image_mode` and the like belong to the towers."""
    own = {
        modality: {"name": str(name)}
        | {key.partition("_")[2]: value for key, value in settings.items() if key.startswith(f"{modality}_")}
        for modality, name in (("image", image), ("text", text))
    }
    rest = {key: value for key, value in settings.items() if not key.startswith(("image_", "text_"))}
    heads = {"width": 12, "hidden": 16, **rest.pop("heads", {})}
    return StudentConfig.model_validate({"kind": "two-tower", "towers": own, "heads": heads, **rest})


def make(image: str | Path, text: str | Path, *, uni: bool = True, **settings: Any) -> TwoTower:
    student = students.create(config(image, text, **settings), captions=[], uni=uni, seed=0)
    assert isinstance(student, TwoTower)
    return student


def pictures(count: int = 4) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(student: students.Student) -> torch.Tensor:
    return torch.stack([student.image_transform(picture) for picture in pictures()])


@torch.no_grad()
def rows(student: students.Student) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = student.eval()(pixels(student), student.tokenize(CAPTIONS))
    return out


def test_forward__is_each_tower_its_projection_and_the_heads(folders: dict[str, Path]) -> None:
    student = make(folders["vit"], folders["sentences"], cross_head=True).eval()
    images, texts = pixels(student), student.tokenize(CAPTIONS)
    out = student(images, texts)
    with torch.no_grad():
        features = {"image": student.towers["image"](images), "text": student.towers["text"](texts)}
    for modality, rows_BW in features.items():
        for space in ("cross", "uni"):
            projected = student.heads.project(rows_BW, modality)  # type: ignore[arg-type]
            expected = student.heads.embed(projected, space, modality)  # type: ignore[arg-type]
            torch.testing.assert_close(out[modality if space == "cross" else f"{modality}_uni"], expected)


def test_frozen_towers__are_not_asked_where_their_features_are_given(folders: dict[str, Path]) -> None:
    student = make(folders["vit"], folders["sentences"], cross_head=True)
    images, texts = pixels(student), student.tokenize(CAPTIONS)
    out = student(images, texts)
    features = student.tower_features(images, "image"), student.tower_features(texts, "text")
    assert [tuple(one.shape) for one in features] == [(4, 16), (4, 16)]
    assert not any(one.requires_grad for one in features)
    for tower in student.towers.values():
        tower.forward = None  # type: ignore[assignment]
    again = student(student.pixels(features[0]), {"features": features[1]})
    for name, expected in out.items():
        torch.testing.assert_close(again[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("image", [*towers.IMAGE_FOLDERS, COLOURS])
@pytest.mark.parametrize("text", ["sentences", "bert", "clip", "siglip2", LETTERS])
def test_saved_and_loaded__it_is_the_same_to_the_bit(
    folders: dict[str, Path], tmp_path: Path, image: str, text: str
) -> None:
    student = make(folders.get(image, image), folders.get(text, text), cross_head=True)  # type: ignore[arg-type]
    expected = rows(student)
    student.save(tmp_path / "model")
    again = students.load(tmp_path / "model", trust=[COLOURS, LETTERS])
    assert isinstance(again, TwoTower)
    assert again.card == student.card
    assert again.tokenize(CAPTIONS).keys() == student.tokenize(CAPTIONS).keys()
    for name, value in rows(again).items():
        assert torch.equal(value, expected[name]), name
    torch.testing.assert_close(pixels(again), pixels(student), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("modes", "learning"),
    [
        ({}, set()),
        ({"image_mode": "learn"}, {"image"}),
        ({"text_mode": "learn"}, {"text"}),
        ({"text_mode": "lora", "lora": {"rank": 2}}, {"text"}),
        ({"image_mode": "lora", "text_mode": "learn", "lora": {"rank": 2}}, {"image", "text"}),
    ],
)
def test_modes__say_what_gets_a_gradient(folders: dict[str, Path], modes: dict[str, Any], learning: set[str]) -> None:
    student = make(folders["vit"], folders["sentences"], uni=False, **modes)
    out = student(pixels(student), student.tokenize(CAPTIONS))
    (out["image"] @ out["text"].T).diagonal().sum().backward()
    moved = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("heads.projections.image") for name in moved)
    assert any(name.startswith("heads.projections.text") for name in moved)
    for modality in ("image", "text"):
        inside = {name for name in moved if name.startswith(f"towers.{modality}.")}
        assert bool(inside) == (modality in learning)
        assert student.frozen(modality) == (modality not in learning)  # type: ignore[arg-type]
        assert student.towers[modality].training == (modality in learning)
        if modes.get(f"{modality}_mode") == "lora":
            assert inside
            assert all("lora_" in name for name in inside)
        if modes.get(f"{modality}_mode") == "learn":
            names = {name for name, _ in student.named_parameters() if name.startswith(f"towers.{modality}.")}
            # BERT's own pooler is not what sentence-transformers pools with.
            assert {name for name in names - inside if "pooler" not in name} == set()


def test_lora__starts_where_the_tower_stands_and_is_merged_when_saved(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = rows(make(folders["vit"], folders["sentences"]))
    student = make(folders["vit"], folders["sentences"], text_mode="lora", lora={"rank": 2})
    for name, expected in plain.items():
        assert torch.equal(rows(student)[name], expected)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    moved = rows(student)
    assert (moved["text"] - plain["text"]).abs().max() > 1e-3
    student.save(tmp_path / "model")
    assert torch.equal(rows(student)["text"], moved["text"])  # the adapters are back in their places
    for name, value in rows(students.load(tmp_path / "model")).items():
        torch.testing.assert_close(value, moved[name], rtol=0, atol=1e-6)


def test_new_weights__depend_on_the_seed_alone(folders: dict[str, Path]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(folders["vit"], folders["sentences"]).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = make(folders["vit"], folders["sentences"]).state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_trust__a_folder_names_its_towers_classes(tmp_path: Path) -> None:
    make(COLOURS, LETTERS).save(tmp_path / "model")
    with pytest.raises(DataError, match=r"of the class 'tests\.towers:Colours'.*--trust tests\.towers:Colours"):
        students.load(tmp_path / "model")
    with pytest.raises(DataError, match=r"--trust tests\.towers:Letters"):
        students.load(tmp_path / "model", trust=[COLOURS])
    assert config(COLOURS, LETTERS).classes == (COLOURS, LETTERS)


def test_name__the_heads_of_another_run_go_on(folders: dict[str, Path], tmp_path: Path) -> None:
    first = make(folders["vit"], folders["sentences"], uni=False)
    with torch.no_grad():
        for parameter in first.heads.parameters():
            parameter.add_(0.1)
    first.save(tmp_path / "run" / "model")
    second = make(folders["vit"], folders["sentences"], uni=True, name=str(tmp_path / "run"))
    torch.testing.assert_close(rows(second)["text"], rows(first)["text"], rtol=0, atol=0)
    assert second.has_uni
    with pytest.raises(DataError, match=r"projections\.text\.0\.weight is \(16, 16\), expected \(16, 5\)"):
        make(folders["vit"], LETTERS, name=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="student.name is 'nowhere', which is no run or model folder of a two-tower"):
        make(folders["vit"], LETTERS, name="nowhere")


def test_load__a_tower_of_another_width(folders: dict[str, Path], tmp_path: Path) -> None:
    make(folders["vit"], folders["sentences"]).save(tmp_path / "one")
    make(folders["clip"], folders["sentences"]).save(tmp_path / "other")
    store.remove_folder(tmp_path / "one" / "image")
    (tmp_path / "other" / "image").rename(tmp_path / "one" / "image")
    with pytest.raises(DataError, match="is an encoder of width 12, and the heads were trained on 16"):
        students.load(tmp_path / "one")


def test_tokenize__counts_what_it_truncates(folders: dict[str, Path]) -> None:
    student = make(folders["vit"], folders["sentences"])
    tokens = student.tokenize(["a red square", " ".join(["a red square"] * 5)])
    assert tokens["input_ids"].shape == (2, 10)
    assert student.truncated == 1
    assert "of 2 captions read (each time counted) 1 (50.0%) had more than 10 tokens" in student.remarks()[-1]
    short = make(folders["vit"], folders["sentences"], text_max_tokens=5)
    assert short.tokenize(["a red square on a red square"])["input_ids"].shape == (1, 5)


def test_config__a_rank_and_a_mode_belong_together() -> None:
    with pytest.raises(ValueError, match="a tower of mode 'lora' needs a rank"):
        config(COLOURS, LETTERS, text_mode="lora")
    with pytest.raises(ValueError, match="and a rank such a tower"):
        config(COLOURS, LETTERS, lora={"rank": 4})


def test_lora__a_tower_without_linear_layers_of_such_names(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"No linear layer of the image tower is called q_proj.*targets: pwconv1"):
        make(folders["convnext"], folders["sentences"], image_mode="lora", lora={"rank": 2})
    with pytest.raises(ConfigError, match="It has no linear layer: let it learn as a whole, or freeze it"):
        make(folders["resnet"], folders["sentences"], image_mode="lora", text_mode="lora", lora={"rank": 2})


def test_embeddings__are_unit_rows(folders: dict[str, Path]) -> None:
    for value in rows(make(folders["siglip"], folders["siglip"])).values():
        torch.testing.assert_close(value, F.normalize(value))
        assert value.dtype == torch.float32
