"""What a student of someone else's has without writing it, and what it is told to write."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cusa.models.students.base import Student


class _Own(Student):
    """The least that a student is."""

    name, width = "own", 3

    def __init__(self, uni: bool) -> None:
        super().__init__()
        self.has_uni = uni

    def image_array(self, image: Image.Image) -> np.ndarray:
        """Return its pixels, which may not be written to."""
        array = np.asarray(image).transpose(2, 0, 1)
        array.flags.writeable = False
        return array

    def pixels(self, arrays: Tensor) -> Tensor:
        """Scale."""
        return arrays.float() / 255

    def tokenize(self, texts: Any) -> dict[str, Tensor]:
        """Return lengths."""
        return {"input_ids": torch.tensor([[len(text)] for text in texts])}

    def forward(self, pixels_BCHW: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def save(self, folder: Path) -> None:
        """Write nothing."""


@pytest.mark.parametrize("uni", [False, True])
def test_spaces_follow_the_heads(uni: bool) -> None:
    student = _Own(uni)
    assert student.spaces == (("cross", "uni") if uni else ("cross",))
    assert student.space_of("cross-modal") == ("cross", "cross")
    assert student.space_of("uni-modal") == (("uni", "uni") if uni else ("cross", "cross (no uni-modal head)"))


def test_remarks__are_the_notes_and_how_many_captions_were_cut() -> None:
    student = _Own(False)
    assert student.remarks() == ()
    student.notes = ("Read so.",)
    assert student.remarks() == ("Read so.",)
    student.read, student.truncated = 4800, 1200
    said = "1,200 (25.0%) had more tokens than the student reads."
    assert student.remarks() == ("Read so.", f"Captions were cut: of 4,800 captions read (each time counted) {said}")


def test_image_transform__is_one_picture_s_input() -> None:
    picture = Image.new("RGB", (4, 2), (255, 0, 51))
    pixels = _Own(False).image_transform(picture)
    assert pixels.shape == (3, 2, 4)
    torch.testing.assert_close(pixels[:, 1, 2], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize(
    ("call", "lacks"),
    [
        (lambda one: one.base_loss({}, image_ids=torch.zeros(1)), "has_own_loss and has no base_loss"),
        (lambda one: one.image_parts(torch.zeros(1)), "has no image_parts"),
        (lambda one: one.text_parts({}), "has no text_parts"),
        (lambda one: one.embed({}, "cross", "image"), "embeds_parts and has no embed"),
        (lambda one: one.pair_scores({}, {}), "scores_pairs and has no pair_scores"),
        (lambda one: one.match({}, {}), "reranks and has no match"),
        (lambda one: one.tower_features(torch.zeros(1), "image"), "frozen and has no tower_features"),
    ],
)
def test_what_is_switched_on_must_be_written(call: Any, lacks: str) -> None:
    with pytest.raises(NotImplementedError, match=f"_Own (says )?{lacks}"):
        call(_Own(False))


def test_towers_are_unknown_learn_and_read_all_patches() -> None:
    student = _Own(False)
    assert student.tower("image") == student.tower("text") == ()
    assert student.patches() is None
    assert not student.frozen("image")
