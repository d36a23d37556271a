"""What a student's frozen towers give, computed once an item and kept as tables beside the teachers'."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.extract import stage

if TYPE_CHECKING:
    from cusa.models.students.base import Student
    from cusa.models.towers.as_teacher import TowerTeacher

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


def of_student(
    student: "Student",
    splits: Sequence[Split],
    *,
    device: str,
    modalities: Sequence[Literal["image", "text"]] = _MODALITIES,
) -> "list[TowerTeacher]":
    """Return the frozen towers of a student as teachers; none where a split's folder cannot be written.

    Args:
        student: about to be trained; it goes to the device, in evaluation mode.
        splits: where the tables would lie.
        device: torch device; empty = CUDA if there is one.
        modalities: of the towers that may become teachers.
    """
    frozen = [modality for modality in modalities if student.frozen(modality)]
    if not frozen or not all(os.access(split.folder, os.W_OK) for split in splits):
        return []
    from cusa.models.device import choose
    from cusa.models.towers.as_teacher import TowerTeacher

    place = choose(device)
    return [TowerTeacher(student, modality, device=place) for modality in frozen]


def run(teacher: "TowerTeacher", splits: Sequence[Split], *, on_event: OnEvent = ignore) -> None:
    """Write what a tower gives for some splits, unless it is there.

    The table's name holds the digest of the tower, so that every run with the same tower reads the same table.

    Args:
        teacher: a frozen tower.
        splits: whose images or captions.
        on_event: called with every batch.

    Raises:
        DataError: if an image does not decode.
        BusyError: if another process makes the same table.
    """
    for split in splits:
        stage.run(
            ExtractConfig(dtype="float32", transform="none"),
            split=split,
            teacher=teacher.name,
            modality=teacher.modality,
            on_event=on_event,
            load=lambda name, modality: teacher,
        )
