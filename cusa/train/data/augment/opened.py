"""From a recipe's options to an augmentation of a student's pictures."""

from collections.abc import Sequence

import numpy as np

from cusa.errors import ConfigError
from cusa.manifests.samples import Split
from cusa.models.naflex import AnyPreprocess
from cusa.models.students.base import Student
from cusa.train.data.augment.augmentation import Augmentation
from cusa.train.data.augment.config import AugmentConfig
from cusa.train.data.augment.words import Owners, one_sided


def open_augmentation(
    config: AugmentConfig, student: Student, splits: Sequence[Split], owners: Owners, *, seed: int, rows_of: str = ""
) -> Augmentation | None:
    """Return what training does to pictures; None where nothing is asked for.

    Args:
        config: what is asked for.
        student: whose pictures they are.
        splits: whose captions say which images are never mirrored.
        owners: the image row of each of their captions.
        seed: the run's.
        rows_of: name of a table whose rows stand in place of pictures; empty = there is none.

    Raises:
        ConfigError: if the student reads no pictures, or patches of its image tower cannot be left out.
    """
    if not config.on:
        return None
    refuse_where_no_pictures(config, student, rows_of)
    preprocess, patches = getattr(student, "preprocess", None), None
    assert isinstance(preprocess, AnyPreprocess)
    if config.patches:
        patches = student.patches()
        assert patches is not None
    sides = one_sided(splits, owners, config.flip_words) if config.flip else np.zeros(0, dtype=bool)
    return Augmentation(config, seed, preprocess, sides, 0 if patches is None else patches.count)


def refuse_where_no_pictures(config: AugmentConfig, student: Student, rows_of: str = "") -> None:
    """Refuse an augmentation that a student cannot have; see `open_augmentation`."""
    asked = next(
        (
            key
            for key in ("crop", "flip", "brightness", "contrast", "saturation", "hue", "patches")
            if getattr(config, key)
        ),
        "",
    )
    if not asked:
        return
    key, kind = f"train.augment.{asked}", type(student).__name__
    value = getattr(config, asked)
    if rows_of:
        raise ConfigError(
            f"{key} is {value}, and {kind} reads rows of the table {rows_of} in place of pictures: they do not change. "
            f"Set {key}=0, or train a student on pictures (student.kind=two-tower).",
            key=key,
        )
    if not isinstance(getattr(student, "preprocess", None), AnyPreprocess):
        raise ConfigError(
            f"{key} is {value}, and {kind} reads no pictures that it scales by a `preprocess`. Set {key}=0.", key=key
        )
    if config.patches and student.patches() is None:
        raise ConfigError(
            f"train.augment.patches is {config.patches}, and the image tower of this {kind} needs all of them. Those "
            "of CLIP, SigLIP, BLIP, ViT, DeiT and DINOv2 can do without some, unless their patches are averaged "
            "(student.towers.image.pooling=mean) or of any number (NaFlex, where max_patches has the same use). Set "
            "train.augment.patches=0.",
            key="train.augment.patches",
        )
