"""The official ground truths of COCO's test split, as the ECCV Caption package ships them."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests.judgements import coco_matches
from cusa.manifests.storage import arrays

Matches = Mapping[int, Sequence[int]]
"""COCO id of a query -> COCO ids of its right answers."""


FILES = {"coco": "original", "cxc": "cxc", "eccv": "eccv"}
PLAUSIBLE = "pm"
"""The plausible matches of Chun et al. (CVPR 2021), 140 MB that the package leaves out: read where they lie with it."""


@dataclass(frozen=True)
class GroundTruths:
    """The official files of ECCV Caption 0.1.0, or ones cut to fewer images in the same layout.

    Attributes:
        caption_ids: the gallery's captions in the official order, which the five folds of COCO 1K are cut from.
        image_to_text: `coco`, `cxc`, `eccv`, and `pm` where its files are there -> matches.
        text_to_image: likewise.
    """

    caption_ids: np.ndarray
    image_to_text: Mapping[str, Matches]
    text_to_image: Mapping[str, Matches]


def official_folder() -> Path | None:
    """Return the folder of the ground truth inside the installed `eccv_caption` package; None without it.

    Only its data are read: the package itself is not imported.
    """
    spec = importlib.util.find_spec("eccv_caption")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / "data" if places else None


def is_ground_truth(folder: Path) -> bool:
    """Tell whether a folder is in the layout that `read` reads."""
    return (folder / "coco_test_ids.npy").is_file() and (folder / "eccv_image_to_caption.json").is_file()


def has_plausible(folder: Path) -> bool:
    """Tell whether a ground truth's folder holds plausible matches."""
    return (folder / f"{PLAUSIBLE}_image_to_caption.json").is_file()


def read(folder: Path) -> GroundTruths:
    """Read `coco_test_ids.npy` and the six JSON files, and the two of plausible matches where they are there.

    Raises:
        DataError: if one is missing, broken, or of another layout.
    """
    path = folder / "coco_test_ids.npy"
    try:
        ids = arrays.load(path)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"it holds {ids.dtype} of shape {ids.shape}, not one row of integers")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}. Restore it.", path=path) from error
    files = {**FILES, PLAUSIBLE: PLAUSIBLE} if has_plausible(folder) else FILES
    return GroundTruths(
        ids.astype(np.int64),
        {name: _matches(folder / f"{file}_image_to_caption.json") for name, file in files.items()},
        {name: _matches(folder / f"{file}_caption_to_image.json") for name, file in files.items()},
    )


def _matches(path: Path) -> dict[int, list[int]]:
    return {query: sorted(set(answers)) for query, answers in coco_matches.read(path).items()}
