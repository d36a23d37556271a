"""A frozen tower as a teacher: its rows, and what its tables' name depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from cusa.models.towers.as_teacher import TowerTeacher
from cusa.models.towers.two_tower import TwoTower
from tests.models.towers.test_two_tower import make, pictures
from tests.towers import CAPTIONS

Modality = Literal["image", "text"]
CPU = torch.device("cpu")


@pytest.fixture
def student(folders: dict[str, Path]) -> TwoTower:
    return make(folders["vit"], folders["sentences"])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_encode__gives_the_directions_of_what_the_tower_gives(student: TwoTower, modality: Modality) -> None:
    teacher = TowerTeacher(student.train(), modality, device=CPU)
    items: Any = pictures() if modality == "image" else CAPTIONS
    with torch.no_grad():
        if modality == "image":
            inputs: Any = torch.stack([student.image_transform(picture) for picture in items])
        else:
            inputs = student.tokenize(items)
        features = student.towers[modality](inputs).double()
    expected = (features / features.norm(dim=1, keepdim=True)).numpy()
    rows = teacher.encode(items)
    assert (rows.shape, rows.dtype) == ((4, teacher.width), np.float32)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
    lengths = [len(text) for text in CAPTIONS] if modality == "text" else [1] * 4
    assert teacher.lengths(items).tolist() == lengths
    said = teacher.provenance()
    assert said["teacher"] == teacher.name == f"tower-{modality}-{said['weights_sha256'][:16]}"
    assert said["revision"] == f"the frozen {modality} tower of {student.name}"


def _weight(tower: str) -> Callable[[TwoTower], None]:
    def change(student: TwoTower) -> None:
        with torch.no_grad():
            next(student.towers[tower].parameters()).view(-1)[-1] += 1

    return change


def _head(student: TwoTower) -> None:
    with torch.no_grad():
        next(student.heads.parameters()).add_(1)


def _card(part: str, key: str) -> Callable[[TwoTower], None]:
    def change(student: TwoTower) -> None:
        student.card[part] = {**student.card[part], key: "other"}

    return change


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (_weight("image"), {"image"}),
        (_weight("text"), {"text"}),
        (_head, set()),
        (_card("preprocess", "resample"), {"image"}),
        (_card("text", "transform"), {"text"}),
        (_card("text", "context"), {"text"}),
    ],
)
def test_name__is_of_the_weights_and_of_how_the_tower_reads(
    student: TwoTower, folders: dict[str, Path], change: Callable[[TwoTower], None], moved: set[str]
) -> None:
    modalities: tuple[Modality, ...] = ("image", "text")
    before = {modality: TowerTeacher(student, modality, device=CPU).name for modality in modalities}
    again = make(folders["vit"], folders["sentences"])
    assert {modality: TowerTeacher(again, modality, device=CPU).name for modality in modalities} == before
    change(again)
    # Only the name: a reading that is called `other` cannot be read by.
    after = {modality: _named(again, modality) for modality in modalities}
    assert {modality for modality in modalities if after[modality] != before[modality]} == moved


def _named(student: TwoTower, modality: Modality) -> str:
    class Named(TowerTeacher):
        def prepare(self, items: Any) -> Any:
            return items

        def embed(self, prepared: Any, *, exact: bool = False) -> np.ndarray:
            return np.zeros((1, 1), np.float32)

    return Named(student, modality, device=CPU).name
