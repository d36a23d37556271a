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
