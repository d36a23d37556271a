"""What of a test set a run may have seen in training: equal images by their bytes, equal captions by their words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cusa.manifests.samples import Split

_EXAMPLES = 5


def of_split(trained: Sequence[Split], test: Split) -> dict[str, Any]:
    """Count the images and captions of a test split that also stand in the training split.

    Args:
        trained: what the run was trained on, one split or several.
        test: what it is evaluated on.

    Returns:
        `train` (the folder, or a list of several), `images`, `of_images`, `captions`, `of_captions`, and the first keys
        of both. Images are equal if their bytes are: the same picture compressed anew is not found. Captions are equal
        if their words are, whatever the case and white space; short ones can be equal by chance.
    """
    seen = pa.concat_arrays([train.samples["sha256"].combine_chunks() for train in trained])
    rows = pc.indices_nonzero(pc.is_in(test.samples["sha256"], value_set=seen)).to_pylist()
    rows = [row for row in rows if test.samples["image_bytes"][row].as_py()]  # rows without an image have no content
    known = {_words(text) for train in trained for text in train.texts}
    captions = [row for row, text in enumerate(test.texts) if _words(text) in known]
    return {
        "train": _where(trained),
        "images": len(rows),
        "of_images": test.num_images,
        "captions": len(captions),
        "of_captions": test.num_captions,
        "image_keys": [test.image_keys[row] for row in rows[:_EXAMPLES]],
        "caption_keys": [test.caption_keys[row] for row in captions[:_EXAMPLES]],
    }


def of_texts(trained: Sequence[Split], texts: Sequence[str]) -> dict[str, Any]:
    """Count the sentences of a test set that are captions of the training split; see `of_split`."""
    known = {_words(text) for train in trained for text in train.texts}
    return {
        "train": _where(trained),
        "captions": sum(_words(text) in known for text in texts),
        "of_captions": len(texts),
    }


def sentence(counts: dict[str, Any]) -> str:
    """Put it in a sentence."""
    train = counts["train"]
    folders = [Path(folder) for folder in (train if isinstance(train, list) else [train])]
    trained = " and ".join(f"{folder.parent.name}/{folder.name}" for folder in folders)
    images = f"{counts['images']:,} of {counts['of_images']:,} images and " if "images" in counts else ""
    return (
        f"Leakage: {images}{counts['captions']:,} of {counts['of_captions']:,} texts of this test set stand in the "
        f"training split{'s' if len(folders) > 1 else ''} {trained} as well."
    )


def _where(trained: Sequence[Split]) -> str | list[str]:
    folders = [str(train.folder) for train in trained]
    return folders[0] if len(folders) == 1 else folders


def _words(text: str) -> str:
    return " ".join(text.lower().split())
