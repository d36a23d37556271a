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
