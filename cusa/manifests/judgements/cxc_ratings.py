"""Crisscrossed Captions' files: how alike people found two captions, two images, or an image and a caption.

`sts_SPLIT.csv`, `sis_SPLIT.csv`, `sits_SPLIT.csv`, each with two columns of COCO's names, `agg_score` from 0 to 5, and
how the pair was sampled.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests import keys

FILES = {"text-to-text": "sts", "image-to-image": "sis", "image-to-text": "sits"}
"""What is rated -> how its files begin."""

MATCH = 3.0
"""Rated so or higher, a pair belongs together: the paper's rule (Parekh et al., EACL 2021), and the one by which ECCV
Caption's package turned ratings into matches."""


@dataclass(frozen=True)
class CxcRatings:
    """One file.

    Attributes:
        first: COCO ids; of `image-to-text` the image's, though the file begins with the caption.
        second: COCO ids.
        score: 0 to 5.
    """

    first: list[int]
    second: list[int]
    score: np.ndarray


def is_layout(folder: Path) -> bool:
    """Tell whether a folder holds files of ratings."""
    return any(any(folder.glob(f"{name}_*.csv")) for name in FILES.values())


def files(folder: Path, split: str) -> dict[str, Path]:
    """Return the files of a split that are there, by what they rate."""
    paths = {what: folder / f"{name}_{split}.csv" for what, name in FILES.items()}
    return {what: path for what, path in paths.items() if path.is_file()}


def read(path: Path) -> CxcRatings:
    """Read one file.

    Raises:
        DataError: naming the line that is no rating.
    """
    first, second, score, captions_first = [], [], [], False
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if number == 1:
                    captions_first = row[:2] == ["caption", "image"]
                    continue
                try:
                    one, other, rated = _number(row[0]), _number(row[1]), float(row[2])
                    if not 0 <= rated <= 5:
                        raise ValueError(f"the score {rated} is not between 0 and 5")
                except (IndexError, ValueError) as error:
                    raise DataError(
                        f"{path}:{number} is no rating ({error}). Restore Crisscrossed Captions' file.", path=path
                    ) from error
                first.append(one)
                second.append(other)
                score.append(rated)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Restore it.", path=path) from error
    if captions_first:
        first, second = second, first
    return CxcRatings(first, second, np.array(score))


def _number(name: str) -> int:
    """Return the id in `COCO_val2014_000000343394.jpg` or `COCO_val2014:sentid:15575`."""
    last = name.rpartition(":")[2]
    number = keys.coco_caption_id(last) if ":" in name else keys.coco_image_id(name.removesuffix(".jpg"))
    if number < 0:
        raise ValueError(f"{name[:80]!r} names neither an image nor a caption of COCO")
    return number
