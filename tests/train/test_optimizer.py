import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cusa.errors import ConfigError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig
from cusa.train.optimizer import parameter_groups, rate_scales
from tests import towers
from tests.train.conftest import STUDENT


def _named() -> dict[str, nn.Parameter]:
    shapes = {"linear.weight": (3, 2), "linear.bias": (3,), "norm.weight": (3,), "table.bias": (2, 2), "tau": ()}
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("decay", "decaying"), [("matrices", ["linear.weight"]), ("release", ["linear.weight", "tau"])]
)
def test_what_decays(decay: Any, decaying: list[str]) -> None:
    named = _named()
    groups = parameter_groups(named.items(), weight_decay=0.1, decay=decay)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["names"] == decaying
    for group in groups:
        assert all(named[name] is parameter for name, parameter in zip(group["names"], group["params"], strict=True))
    assert sorted(groups[0]["names"] + groups[1]["names"]) == sorted(named)


def test_a_temperature_without_gradient_shrinks_only_the_releases_way() -> None:
    for decay, expected in (("matrices", 1.0), ("release", 0.99)):
        named = {"tau": nn.Parameter(torch.tensor(1.0))}
        groups = parameter_groups(named.items(), weight_decay=0.1, decay=decay)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        named["tau"].grad = torch.tensor(0.0)
        optimizer.step()
        assert named["tau"].item() == pytest.approx(expected)


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    named = _named()
    named["linear.weight"].requires_grad_(False)
    groups = parameter_groups(named.items(), weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert "linear.weight" not in groups[0]["names"]


@pytest.mark.parametrize("option", [{"decay": "all"}, {"weight_decay": -1.0}, {"weight_decay": float("nan")}])
def test_impossible_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allowed|at least 0"):
        parameter_groups(_named().items(), **{"weight_decay": 0.1, **option})


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Student]:
    """Return a maker of small two-tower students: a ViT of three layers and a BERT of three."""
    root = tmp_path_factory.mktemp("towers")
    folders = {"image": towers.write_image("vit", root / "vit"), "text": towers.write_sentences(root / "words")}

    def make(*, image: str = "learn", text: str = "learn", **rest: Any) -> Student:
        modes = {"image": image, "text": text}
        named = {modality: {"name": str(folders[modality]), "mode": mode} for modality, mode in modes.items()}
        config = StudentConfig.model_validate({"kind": "two-tower", "towers": named, **rest})
        return students.create(config, captions=[], uni=False, seed=0)

    return make


def test_rate_scales__each_layer_by_what_its_name_says(two_towers: Callable[..., Student]) -> None:
    config = TrainConfig(lr=1e-3, lr_image=1e-4, lr_text=5e-4, layer_decay=0.5)
    student = two_towers()
    scales = rate_scales(student, config)
    for name, _ in student.named_parameters():
        layer = re.search(r"\.layers?\.(\d)\.", name)
        if name.startswith("heads."):
            assert name not in scales
            continue
        below = 4 if "embeddings" in name else 3 - int(layer[1]) if layer else 0
        base = 0.1 if name.startswith("towers.image.") else 0.5
        assert scales[name] == pytest.approx(base * 0.5**below), name


def test_rate_scales__how_far_a_first_step_goes(two_towers: Callable[..., Student]) -> None:
    # AdamW's first step is the learning rate itself, in the direction of the gradient's sign.
    config = TrainConfig(lr=1e-3, lr_image=2e-4, layer_decay=0.5)
    student = two_towers(text="lora", lora={"rank": 2})
    groups = parameter_groups(student.named_parameters(), weight_decay=0.0, scales=rate_scales(student, config))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=0.0)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["scale"]
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 0.3)
    optimizer.step()
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in student.named_parameters()}
    assert moved["heads.projections.image.0.weight"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["towers.image.model.layers.2.mlp.fc1.weight"] == pytest.approx(1e-4, rel=1e-3)
    assert moved["towers.image.model.layers.0.mlp.fc1.weight"] == pytest.approx(2.5e-5, rel=1e-2)
    text = {name: far for name, far in moved.items() if name.startswith("towers.text.")}
    assert {name for name, far in text.items() if far} == {name for name in text if "lora_" in name}
    for name, far in text.items():
        if "lora_" in name:
            number = int(name.partition("encoder.layer.")[2][0])
            assert far == pytest.approx(1e-3 * 0.5 ** (3 - number), rel=1e-2)


def test_rate_scales__of_a_clip_and_of_none() -> None:
    clip = students.create(STUDENT.model_copy(update={"image_layers": 2}), captions=["a dog"], uni=True, seed=0)
    assert rate_scales(clip, TrainConfig()) == {}
    scales = rate_scales(clip, TrainConfig(lr=1e-3, lr_text=1e-4))
    assert set(scales) == {n for n, _ in clip.named_parameters() if n.startswith("backbone.text_")}
    assert all(scale == pytest.approx(0.1) for scale in scales.values())
    decayed = rate_scales(clip, TrainConfig(layer_decay=0.5))
    assert decayed["backbone.vision_model.encoder.layers.0.mlp.fc1.weight"] == 0.25
    assert decayed["backbone.visual_projection.weight"] == 1


@pytest.mark.parametrize(
    ("modes", "train", "words"),
    [
        ({"image": "frozen"}, {"lr_image": 1e-4}, r"train\.lr_image is 0\.0001, and the image tower does not learn"),
        ({"image": "frozen", "text": "frozen"}, {"layer_decay": 0.8}, "no tower that learns has a list of layers"),
    ],
)
def test_rate_scales__what_would_have_no_effect(
    two_towers: Callable[..., Student], modes: dict[str, str], train: dict[str, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        rate_scales(two_towers(**modes), TrainConfig(**train))  # type: ignore[arg-type]
