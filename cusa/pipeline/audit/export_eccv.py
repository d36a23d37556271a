"""Verdicts as a ground truth in ECCV Caption's layout: for every judged query all its matches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests.judgements import coco_matches, pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

NAME = "audited"


@dataclass(frozen=True)
class ExportedMatches:
    """Where a ground truth lies, and what it holds."""

    files: tuple[Path, Path]
    """Image to captions, caption to images."""
    images: int
    """Queries."""
    captions: int
    pairs: int
    """True pairs of the image queries, own ones included."""
    ids: str
    """`numbers`, as the `eccv_caption` package reads them, or `keys`."""
    notes: tuple[str, ...]


def run(split: Split, out: Path) -> ExportedMatches:
    """Write `audited_image_to_caption.json` and `audited_caption_to_image.json`.

    A query is an image or a caption of which somebody judged a pair; its right answers are its own, those judged to
    match, and what follows from judged copies. Ids are numbers where every image key ends in one and every caption has
    one (as COCO's do), else our keys. `cusa audit --truth FOLDER` reads both.

    Args:
        split: judged with `cusa review`.
        out: the folder.

    Raises:
        DataError: if nobody has judged a pair of the split, or the folder cannot be written.
    """
    judgements = pair_judgements.read(split)
    if not judgements.judgements:
        raise DataError(
            f"Nobody has judged a pair of {split.folder}. Run `cusa review {split.work} --split {split.name}`.",
            split=split.name,
        )
    judged = pair_judgements.pair_rows(split, judgements, *{one.verdict for one in judgements.judgements})
    pairs = pair_judgements.true_pairs(split, judgements)
    image_ids, caption_ids, kind = _ids(split)
    of_images = pairs[np.isin(pairs[:, 0], judged[:, 0])]
    of_captions = pairs[np.isin(pairs[:, 1], judged[:, 1])]
    files = (out / coco_matches.IMAGE_TO_CAPTION.format(NAME), out / coco_matches.CAPTION_TO_IMAGE.format(NAME))
    to_captions = _grouped(of_images[:, 0], of_images[:, 1], image_ids, caption_ids)
    to_images = _grouped(of_captions[:, 1], of_captions[:, 0], caption_ids, image_ids)
    store.write_json(files[0], to_captions)
    store.write_json(files[1], to_images)
    return ExportedMatches(files, len(to_captions), len(to_images), len(of_images), kind, judgements.notes())


def _grouped(
    queries: np.ndarray, answers: np.ndarray, query_ids: Sequence[int | str], answer_ids: Sequence[int | str]
) -> dict[str, list[int | str]]:
    grouped: dict[str, list[int | str]] = {}
    for query, answer in zip(queries.tolist(), answers.tolist(), strict=True):
        grouped.setdefault(str(query_ids[query]), []).append(answer_ids[answer])
    return grouped


def _ids(split: Split) -> tuple[Sequence[int | str], Sequence[int | str], str]:
    """Return an id of each image and caption: numbers where all have one of their own, else keys."""
    images, captions = split.coco_ids
    if min((*images, *captions), default=0) >= 0:
        return images, captions, "numbers"
    return split.image_keys, split.caption_keys, "keys"
