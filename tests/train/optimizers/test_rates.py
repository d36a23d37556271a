import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cusa.errors import ConfigError
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.models.students.base import Student
from cusa.train.config import TrainConfig
from cusa.train.optimizers.groups import parameter_groups
from cusa.train.optimizers.rates import rate_scales, tower_rates
from tests import towers
from tests.train.conftest import STUDENT


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Student]:
    """Return a maker of small two-tower students: a ViT of three layers and a BERT of three."""
    root = tmp_path_factory.mktemp("towers")
    folders = {"image": towers.write_image("vit", root / "vit"), "text": towers.write_sentences(root / "words")}

    def make(*, image: str = "learn", text: str = "learn", image_class: str = "", **rest: Any) -> Student:
        modes = {"image": image, "text": text}
        named = {modality: {"name": str(folders[modality]), "mode": mode} for modality, mode in modes.items()}
        named["image"]["name"] = image_class or named["image"]["name"]
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


SMALL = {"image_size": 16, "patch_size": 8, "image_width": 16, "image_layers": 2, "text_width": 16, "text_layers": 2}
TABLES: dict[str, dict[str, float]] = {
    "x2vlm": {
        "network.vision_encoder.cls_token": 0.125,
        "network.vision_encoder.patch_embed.proj.weight": 0.125,
        "network.vision_encoder.blocks.0.attn.relative_position_bias_table": 0.25,
        "network.vision_encoder.blocks.1.mlp.fc1.weight": 0.5,
        "network.vision_encoder.fc_norm.weight": 1.0,
        # Two layers of text and one of fusion are one numbered stack.
        "network.text_encoder.embeddings.word_embeddings.weight": 0.2 * 0.8**4,
        "network.text_encoder.encoder.layer.0.intermediate.dense.weight": 0.2 * 0.8**3,
        "network.text_encoder.encoder.layer.2.crossattention.self.query.weight": 0.2 * 0.8,
    },
    "blip": {
        "model.vision_model.embeddings.class_embedding": 0.125,
        "model.vision_model.encoder.layers.0.mlp.fc1.weight": 0.25,
        "model.vision_model.encoder.layers.1.mlp.fc2.bias": 0.5,
        "model.vision_model.post_layernorm.weight": 1.0,
        "model.text_encoder.embeddings.word_embeddings.weight": 0.2 * 0.8**3,
        "model.text_encoder.encoder.layer.1.output.dense.weight": 0.2 * 0.8,
    },
}
"""Names of parameters -> factor, written by hand: layers of 0.5 in the image tower, of 0.8 in the text tower."""
BESIDE = {"x2vlm": ("network.vision_proj.weight", "network.itm_head.0.weight"), "blip": ("model.vision_proj.weight",)}


@pytest.mark.parametrize("kind", TABLES)
def test_rate_scales__of_students_with_a_fusion_encoder(kind: str) -> None:
    config = StudentConfig.model_validate(
        {"kind": kind, "head_width": 8, "width": 12, **SMALL, "x2vlm": {"fusion_layers": 1}}
    )
    student = students.create(config, captions=["a dog on grass"], uni=True, seed=0)
    train = TrainConfig(lr=1e-3, lr_text=2e-4, layer_decay=0.8, layer_decay_image=0.5)
    scales = rate_scales(student, train)
    for name, expected in TABLES[kind].items():
        assert scales[name] == pytest.approx(expected), name
    assert not scales.keys() & {"uni.image.weight", *BESIDE[kind]}
    assert [(tower.modality, tower.layers) for tower in tower_rates(student, train)][0] == ("image", 2)


def test_rate_scales__of_a_student_that_scores_pairs() -> None:
    config = StudentConfig.model_validate(
        {"kind": "sgraf", "sgraf": {"width": 16, "word_width": 8, "similarity_width": 8, "region_width": 4}}
    )
    student = students.create(config, captions=["a dog on grass"], uni=True, seed=0)
    scales = rate_scales(student, TrainConfig(lr=1e-3, lr_text=1e-4))
    assert {name.split(".")[2] for name in scales} == {"txt_enc"}
    assert {round(scale, 6) for scale in scales.values()} == {0.1}
    words = r"train\.layer_decay is 0\.8, and the image tower of this Sgraf has no list of layers.*layer_decay_image=1"
    with pytest.raises(ConfigError, match=words):
        rate_scales(student, TrainConfig(layer_decay=0.8))


def test_rate_scales__one_tower_has_no_layers(two_towers: Callable[..., Student]) -> None:
    student = two_towers(image_class="tests.towers:Colours")
    with pytest.raises(ConfigError, match=r"the image tower of this TwoTower has no list of layers"):
        rate_scales(student, TrainConfig(layer_decay=0.5))
    config = TrainConfig(lr=1e-3, lr_image=1e-2, layer_decay=0.5, layer_decay_image=1.0)
    image, text = tower_rates(student, config)
    assert (image.layers, text.layers) == (0, 3)
    assert set(image.scales.values()) == {10.0}
    assert min(text.scales.values()) == 0.5**4
    assert image.sentence(1e-3) == "The image tower learns at 0.01."
    assert "text tower learns at 6.25e-05 (what stands before its 3 layers) to 0.001" in text.sentence(1e-3)


def test_rate_scales__a_student_without_towers() -> None:
    student = students.create(STUDENT, captions=["a dog"], uni=False, seed=0)
    student.tower = lambda modality: ()  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"train\.lr_text is 0\.1, and the text tower is not named by a DualEncoder"):
        rate_scales(student, TrainConfig(lr_text=0.1))
    with pytest.raises(ConfigError, match="no tower of this DualEncoder learns"):
        rate_scales(student, TrainConfig(layer_decay=0.9))


@pytest.mark.parametrize(
    ("modes", "train", "words"),
    [
        ({"image": "frozen"}, {"lr_image": 1e-4}, r"train\.lr_image is 0\.0001, and the image tower does not learn"),
        ({"image": "frozen", "text": "frozen"}, {"layer_decay": 0.8}, "no tower of this TwoTower learns"),
        ({"text": "frozen"}, {"layer_decay_text": 0.8}, r"layer_decay_text is 0\.8, and the text tower does not learn"),
    ],
)
def test_rate_scales__what_would_have_no_effect(
    two_towers: Callable[..., Student], modes: dict[str, str], train: dict[str, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        rate_scales(two_towers(**modes), TrainConfig(**train))  # type: ignore[arg-type]
