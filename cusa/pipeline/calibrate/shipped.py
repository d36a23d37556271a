"""The calibrations that come with the package, and which of them fits the teachers of an audit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration

FOLDER = Path(__file__).parent / "shipped"

_ALIKE = (0.8, 1.25)
"""How far an image teacher's skill may lie below the smallest and above the largest that the calibration knows."""

_LOCAL = "local folder"
"""The revision of a teacher that was loaded from a folder: its name is the folder's and proves nothing."""


@dataclass(frozen=True)
class Choice:
    """A calibration, or none, and why."""

    calibration: Calibration | None
    name: str
    """The calibration's; empty without one."""
    why: str
    """A sentence for people."""


def files() -> list[Path]:
    """Return the files of the shipped calibrations, those with more teachers first."""
    return sorted(FOLDER.glob("*.json"), key=lambda path: (-path.stem.count("+"), path.stem))


def choose(teachers: Mapping[str, Mapping[str, str]], skill: float | None) -> Choice:
    """Return the shipped calibration that fits, or why none does.

    A text teacher fits by the digest of its weights, or by its hub's name where the calibration is of the same name (a
    folder's name proves nothing); captions must have been read alike. An image teacher fits by its weights, or by what
    it can do: on the data at hand its features foretell captions about as well as those that the calibration was
    fitted with. One that does not fit is left out, and a calibration of the text teacher alone is taken.

    Args:
        teachers: modality (and `student`) -> provenance, as `cusa.pipeline.pairs.neighbourhoods.stamps` gives it.
        skill: of the image teacher, see `cusa.pipeline.pairs.features.PairFeatures.map_skill`.
    """
    text, image = teachers.get("text"), teachers.get("image")
    if text is None:
        return Choice(None, "", "No shipped calibration is for an image teacher alone.")
    partly: Choice | None = None
    for path in files():
        made = calibration.read(path)
        by_text = _text_fits(made.teachers["text"], text)
        if not by_text:
            continue
        if "image" not in made.teachers:
            partly = Choice(made, path.stem, f"it knows {by_text}{_left_out(image, skill)}")
        elif image is not None and (by_image := _image_fits(made, image, skill)):
            return Choice(made, path.stem, f"it knows {by_text}, {by_image}")
    if partly is not None:
        return partly
    known = ", ".join(path.stem for path in files())
    return Choice(
        None,
        "",
        f"No shipped calibration fits the text teacher {text['teacher']} (there are {known}; compared by the digest of "
        "the weights).",
    )


def _text_fits(mine: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return by what a text teacher fits, in words; empty if it does not."""
    if mine.get("transform", "") != other.get("transform", ""):
        return ""
    if mine.get("weights_sha256") and mine.get("weights_sha256") == other.get("weights_sha256"):
        return "the text teacher by its weights"
    if other.get("revision", _LOCAL) != _LOCAL and other.get("teacher") == mine.get("teacher"):
        return "the text teacher by its hub's name, though its files differ"
    return ""


def _image_fits(made: Calibration, other: Mapping[str, str], skill: float | None) -> str:
    """Return by what an image teacher fits, in words; empty if it does not."""
    mine = made.teachers["image"]
    keys = ("weights_sha256", "preprocessing", "transform")
    if skill is None:
        return ""
    if mine.get("weights_sha256") and all(mine.get(key) == other.get(key) for key in keys):
        return "the image teacher by its weights"
    fitted = made.about["fitted"]
    known = fitted["map_skill"]
    if _ALIKE[0] * min(known) <= skill <= _ALIKE[1] * max(known):
        spoken = " to ".join(f"{value:.2f}" for value in sorted({min(known), max(known)}))
        return (
            f"and the image teacher {other['teacher']} by what it can do: its features foretell captions by "
            f"{skill:.2f} standard deviations, those of the fitted {fitted['image_family']} by {spoken}"
        )
    return ""


def _left_out(image: Mapping[str, str] | None, skill: float | None) -> str:
    if image is None:
        return ""
    if skill is None:
        return f"; the image teacher {image['teacher']} is left out: too few pairs to learn a map from"
    return (
        f"; the image teacher {image['teacher']} is left out: its features foretell captions by {skill:.2f} standard "
        "deviations, unlike those that calibrations were fitted with"
    )
