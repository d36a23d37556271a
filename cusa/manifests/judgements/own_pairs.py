"""What the audit says of the data set's own pairs: where it lies, and the probability that each is wrong."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cusa.errors import DataError, StaleError
from cusa.manifests import tables
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

FOLDER = Path("audit") / "pairs"
"""In a split's folder: the tables, the page and the verdicts on own pairs."""
TABLE = "pairs.parquet"

IN_WORDS: Mapping[str, str] = {
    "sibling_mean": "disagrees with the image's other captions",
    "sibling_best": "no other caption of the image reads like it",
    "caption_neighbours": "captions that read like it belong to other pictures",
    "image_neighbours": "pictures like this one are described otherwise",
    "cross_modal": "what the picture predicts is something else",
    "repeated": "the same words on many images",
    "boilerplate": "boilerplate",
    "too-short": "too short",
    "markup": "markup",
    "language": "not the language of the rest",
    "duplicate": "a copy of another image",
    "broken": "the picture is broken",
    "blank": "the picture is blank",
    "dark": "the picture is dark",
    "bright": "the picture is washed out",
    "blurred": "the picture is blurred",
    "tiny": "the picture is tiny",
    "odd-aspect": "the picture is a strip",
}
"""What speaks against a pair, as a page says it: the evidence, then the faults of its caption and its picture."""


def pairs_path(split: Split) -> Path:
    """Return where the table of a split's own pairs lies."""
    return split.folder / FOLDER / TABLE


def pairs_digest(split: Split) -> str:
    """Return the SHA-256 of the table of a split's own pairs.

    Raises:
        DataError: if there is none.
    """
    path = pairs_path(split)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: nobody has looked for wrong pairs. Run `cusa audit {split.work} --pairs --split "
            f"{split.name}`.",
            path=path,
        )
    return store.sha256_file(path)


def weights_digest(split: Split) -> str:
    """Return a digest of what the weights of own pairs come from: the audit's table and the verdicts on own pairs.

    Raises:
        DataError: if the pairs were not audited, or verdicts are broken.
    """
    judgements = pair_judgements.read(split, folder=split.folder / FOLDER)
    return store.digest([pairs_digest(split), judgements.digest])


def read_p_wrong(split: Split) -> np.ndarray:
    """Return for each caption row the probability that it does not belong to its image: float32 (captions,).

    Raises:
        DataError: if there is no table, it lacks a pair, or the split is too small for probabilities.
        StaleError: if the table belongs to another state of the split.
    """
    pairs_digest(split)
    path, again = pairs_path(split), f"cusa audit {split.work} --pairs --split {split.name}"
    table = store.read_table(path, columns=["caption_key", "p_wrong"], made_by=again)
    if tables.read_part_metadata(path).get("split") != split.digest:
        raise StaleError(f"{path} is of another state of the split {split.name!r}. Run `{again}`.", path=path)
    if table["p_wrong"].null_count:
        raise DataError(
            f"{path} has no probabilities: the split was too small to tell wrong pairs from right ones.", path=path
        )
    p_wrong = dict(zip(table["caption_key"].to_pylist(), table["p_wrong"].to_pylist(), strict=True))
    if len(p_wrong) != split.num_captions or p_wrong.keys() != set(split.caption_keys):
        raise DataError(f"{path} has not one row for each of {split.num_captions} pairs. Run `{again} --force`.")
    return np.array([p_wrong[key] for key in split.caption_keys], dtype=np.float32)
