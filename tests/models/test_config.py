import pytest
from pydantic import ValidationError

from cusa.models.config import StudentConfig


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"patch_size": 7}, "image_size 64 is no multiple of patch_size 7"),
        ({"text_width": 100}, "text_width 100 is no multiple of head_width 32"),
        ({"image_width": 100}, "image_width 100 is no multiple of head_width 32"),
        ({"layers": 3}, "Extra inputs"),
        ({"max_patches": -1}, "greater than or equal to 0"),
        ({"kind": "two-tower", "max_patches": 9}, r"max_patches is 9.*of a two-tower it is towers\.image\.max_patches"),
        ({"kind": "late-interaction", "max_patches": 9}, r"of a late-interaction it is towers\.image\.max_patches"),
        ({"kind": "two-tower", "max_tokens": 9}, r"max_tokens is 9.*of a two-tower it is towers\.text\.max_tokens"),
        ({"kind": "sgraf", "max_tokens": 9}, "max_tokens is 9, which is of kind dual-encoder; set it to 0"),
        ({"name": ""}, "at least 1 character"),
        ({"uni_head": True}, "'auto', 'always' or 'never'"),
    ],
)
def test_impossible_sizes_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StudentConfig.model_validate(fields)


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StudentConfig().width = 3  # type: ignore[misc]


def test_tower__a_scratch_transformer_has_the_sizes_of_its_modality() -> None:
    config = StudentConfig(image_width=96, image_layers=4, text_width=64, text_layers=2, head_width=16)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    assert config.tower("image") == dict(zip(names, (96, 384, 4, 6), strict=True))
    assert config.tower("text") == dict(zip(names, (64, 256, 2, 4), strict=True))


@pytest.mark.parametrize(
    ("fields", "adapted"),
    [
        ({}, ()),
        ({"lora": {"rank": 2}}, ("image", "text")),
        ({"kind": "two-tower"}, ()),
        ({"kind": "two-tower", "lora": {"rank": 2}, "towers": {"text": {"mode": "lora"}}}, ("text",)),
        ({"kind": "two-tower", "towers": {"image": {"mode": "learn"}}}, ()),
    ],
)
def test_adapted__are_the_towers_with_adapters(fields: dict[str, object], adapted: tuple[str, ...]) -> None:
    assert StudentConfig.model_validate(fields).adapted == adapted


def test_classes__are_those_of_other_people_wherever_they_are_named() -> None:
    config = StudentConfig.model_validate(
        {
            "kind": "a.b:Own",
            "towers": {"image": {"name": "c:Image"}, "text": {"name": "org/model"}},
            "heads": {"image_encoder": "offline-gist", "text_encoder": "d_1.e:Text"},
        }
    )
    assert config.classes == ("a.b:Own", "c:Image", "d_1.e:Text")
    assert StudentConfig().classes == ()


def test_projections__are_what_decides_on_the_weights_of_heads() -> None:
    heads = StudentConfig.model_validate({"heads": {"kind": "linear", "width": 8, "image_table": "x"}}).heads
    assert heads.projections() == {"kind": "linear", "width": 8, "hidden": 512, "dropout": 0.0}
