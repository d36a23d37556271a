"""Images that must not be mirrored: a caption says which side something is on."""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cusa.manifests.samples import Split


class Owners(Protocol):
    """The image row of each caption row, of several splits one after another."""

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        """Return those of some caption rows."""
        ...


def one_sided(splits: Sequence[Split], owners: Owners, words: Sequence[str]) -> np.ndarray:
    """Return which images have a caption with one of some words: (images,) bool, the splits' one after another.

    Args:
        splits: whose captions are read, a part at a time.
        owners: the image row of each of their captions.
        words: whole words; capitals do not matter, and what is joined by a hyphen is two words.
    """
    images = np.zeros(sum(split.num_images for split in splits), dtype=bool)
    pattern = rf"(?i)(^|[^\pL\pM\pN_])({'|'.join(map(re.escape, words))})($|[^\pL\pM\pN_])"
    first = 0
    for split in splits if words else ():
        with pq.ParquetFile(split.folder / "captions.parquet") as file:
            for batch in file.iter_batches(columns=["text"], batch_size=1 << 16):
                says = np.asarray(pc.match_substring_regex(batch["text"], pattern).to_pylist(), dtype=bool)
                images[owners[first + np.flatnonzero(says)]] = True
                first += len(says)
    return images
