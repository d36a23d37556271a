"""What a student's frozen towers give, computed once an item and kept as tables of the work folder."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.models import features

if TYPE_CHECKING:
    from cusa.models.students.base import Student
    from cusa.models.towers.as_teacher import TowerTeacher

_MODALITIES: tuple[Literal["image", "text"], ...] = ("image", "text")


def encode_once(
    student: "Student", splits: Iterable[Split], *, device: str, callbacks: Callbacks
) -> dict[str, features.FeatureTable]:
    """Let extraction compute what the frozen towers of a student give, unless the tables are there.

    The tables lie beside the teachers' under a name that holds the digest of the tower, so that every run with the same
    tower reads the same ones. Called on all ranks; the first computes.

    Args:
        student: about to be trained.
        splits: to train on and to validate on; the first one's tables are returned.
        device: torch device of the towers; empty = CUDA if there is one.
        callbacks: told of the progress, and in one line of what is done.

    Returns:
        `image` and `text` -> table, for the modalities whose tower is frozen; none where the work folder cannot be
        written.

    Raises:
        DataError: if an image does not decode.
        BusyError: if another process makes the same table.
    """
    import torch

    from cusa.models.towers.as_teacher import TowerTeacher
    from cusa.train import ranks

    frozen = [modality for modality in _MODALITIES if student.frozen(modality)]
    opened = list(splits)
    if not frozen or not all(os.access(split.folder, os.W_OK) for split in opened):
        return {}
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    teachers = [TowerTeacher(student, modality, device=place) for modality in frozen]
    if ranks.rank() == 0:
        towers = " and ".join(frozen)
        callbacks.on_message(
            f"The {towers} tower{'s are' if len(frozen) > 1 else ' is'} frozen: encoded once, steps read rows "
            "(train.encode_once)."
        )
        for split in opened:
            for teacher in teachers:
                _extract(split, teacher, callbacks)
    ranks.barrier()
    student.train()
    return {teacher.modality: features.of_table(opened[0], teacher.name) for teacher in teachers}


def _extract(split: Split, teacher: "TowerTeacher", callbacks: Callbacks) -> None:
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig

    extract.run(
        ExtractConfig(dtype="float32", transform="none"),
        split=split,
        teacher=teacher.name,
        modality=teacher.modality,
        on_event=callbacks.on_event,
        load=lambda name, modality: teacher,
    )
