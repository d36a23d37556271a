"""What of a test set a run may have seen in training: equal images by their bytes, equal captions by their words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from cusa.manifests.samples import Split

_EXAMPLES = 5


def of_split(train: Split, test: Split) -> dict[str, Any]:
    """Count the images and captions of a test split that also stand in the training split.

    Args:
        train: what the run was trained on.
        test: what it is evaluated on.

    Returns:
        `train` (where), `images`, `of_images`, `captions`, `of_captions`, and the first keys of both. Images are equal
        if their bytes are: the same picture compressed anew is not found. Captions are equal if their words are,
        whatever the case and white space; short ones can be equal by chance.
    """
    trained = train.samples["sha256"].combine_chunks()
    rows = pc.indices_nonzero(pc.is_in(test.samples["sha256"], value_set=trained)).to_pylist()
    rows = [row for row in rows if test.samples["image_bytes"][row].as_py()]  # rows without an image have no content
    known = {_words(text) for text in train.texts}
    captions = [row for row, text in enumerate(test.texts) if _words(text) in known]
    return {
        "train": str(train.folder),
        "images": len(rows),
        "of_images": test.num_images,
        "captions": len(captions),
        "of_captions": test.num_captions,
        "image_keys": [test.image_keys[row] for row in rows[:_EXAMPLES]],
        "caption_keys": [test.caption_keys[row] for row in captions[:_EXAMPLES]],
    }


def of_texts(train: Split, texts: Sequence[str]) -> dict[str, Any]:
    """Count the sentences of a test set that are captions of the training split; see `of_split`."""
    known = {_words(text) for text in train.texts}
    return {
        "train": str(train.folder),
        "captions": sum(_words(text) in known for text in texts),
        "of_captions": len(texts),
    }


def sentence(counts: dict[str, Any]) -> str:
    """Put it in a sentence."""
    train = Path(counts["train"])
    images = f"{counts['images']:,} of {counts['of_images']:,} images and " if "images" in counts else ""
    return (
        f"Leakage: {images}{counts['captions']:,} of {counts['of_captions']:,} texts of this test set stand in the "
        f"training split {train.parent.name}/{train.name} as well."
    )


def _words(text: str) -> str:
    return " ".join(text.lower().split())
