"""The calibration of a batch's pairs, a JSON file: from two teachers' cosines to the probability that a pair is true.

Written by `cusa calibrate --in-batch`, or shipped with the package; read by training. The audit's calibration knows a
dozen features of a pair that somebody or something chose. In a training step there are only the teachers' cosines, and
nearly all pairs are of images and captions that met by chance.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cusa.errors import DataError, StaleError
from cusa.manifests.storage import store
from cusa.manifests.tables import PROVENANCE

FORMAT = "cusa batch calibration 1"


@dataclass(frozen=True)
class BatchCalibration:
    """A logistic regression on the cosines of two pairs by each teacher, and on the levels of their items.

    The level of an item is the cosine of its embedding with the mean of the split's unit rows, less the square of that
    mean: an item that resembles everything has a high one.
    """

    teachers: Mapping[str, Mapping[str, str]]
    """`image`, `text` or both -> provenance."""
    cosines: Mapping[str, float]
    """Modality -> logit for 1 of cosine."""
    levels: Mapping[str, float]
    """Modality -> logit for 1 of the sum of both items' levels."""
    intercept: float
    about: Mapping[str, Any]
    """What it was fitted on and how well it does, for people."""

    @property
    def digest(self) -> str:
        """Of its numbers and teachers."""
        numbers = [sorted(self.cosines.items()), sorted(self.levels.items()), self.intercept]
        return store.digest([numbers, sorted((name, sorted(one.items())) for name, one in self.teachers.items())])

    def misfit(self, teachers: Mapping[str, Mapping[str, str]]) -> str:
        """Return why the cosines of some teachers are not those that this was fitted on, in words; empty if they are.

        A teacher is known by the digest of its weights and by how it reads; where a hub gave it no digest, by name and
        revision. A teacher that the calibration does not use may be anything.

        Args:
            teachers: modality -> provenance.
        """
        for modality, mine in sorted(self.teachers.items()):
            other = teachers.get(modality)
            if other is None:
                return f"it needs an {modality} teacher" if modality == "image" else "it needs a text teacher"
            keys = ("weights_sha256", "preprocessing", "transform") if mine.get("weights_sha256") else PROVENANCE
            for key in keys:
                if mine.get(key, "") != other.get(key, ""):
                    return (
                        f"its {modality} teacher is {mine.get('teacher', '?')!r}, here it is "
                        f"{other.get('teacher', '?')!r}: {key} is {mine.get(key, '')!r} there and "
                        f"{other.get(key, '')!r} here"
                    )
        return ""

    def refuse_others(self, teachers: Mapping[str, Mapping[str, str]], name: str) -> None:
        """Refuse teachers that this was not fitted on.

        Args:
            teachers: modality -> provenance.
            name: the calibration's, for the message.

        Raises:
            StaleError: if a teacher is another one.
        """
        if why := self.misfit(teachers):
            raise StaleError(
                f"The calibration {name} was fitted on other teachers: {why}. Fit one on these with `cusa calibrate "
                "--in-batch`, or leave loss.calibration empty: a shipped one may fit."
            )


def write(path: Path, calibration: BatchCalibration) -> None:
    """Write a calibration as JSON, whole."""
    store.write_json(path, {"format": FORMAT, **asdict(calibration)})


def read(path: Path) -> BatchCalibration:
    """Read a calibration.

    Raises:
        DataError: if the file is missing, broken, or no such calibration.
    """
    again = "Make it with `cusa calibrate --in-batch`."
    if not path.is_file():
        raise DataError(f"There is no calibration {path}. {again}", path=path)
    content = store.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        kind = content.get("format") if isinstance(content, dict) else None
        known = f"it is a {kind!r}" if isinstance(kind, str) else "it is none of this package's"
        raise DataError(f"{path} is no calibration of a batch's pairs ({FORMAT}): {known}. {again}", path=path)
    try:
        made = BatchCalibration(
            teachers={str(name): dict(one) for name, one in content["teachers"].items()},
            cosines={str(name): float(number) for name, number in content["cosines"].items()},
            levels={str(name): float(number) for name, number in content["levels"].items()},
            intercept=float(content["intercept"]),
            about=dict(content["about"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is a broken calibration ({error!r}). {again}", path=path) from error
    numbers = (made.intercept, *made.cosines.values(), *made.levels.values())
    named = {*made.teachers} == {*made.cosines} == {*made.levels} and {*made.teachers} <= {"image", "text"}
    if not (named and made.teachers and all(math.isfinite(number) for number in numbers)):
        raise DataError(f"{path} is a broken calibration: its numbers do not fit together. {again}", path=path)
    return made
