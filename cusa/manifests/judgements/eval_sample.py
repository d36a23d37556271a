"""Where the pairs lie that people are asked about so that two runs can be compared."""

from pathlib import Path

from cusa.errors import ConfigError, nearest
from cusa.manifests.samples import Split

SCORES = ("r@1", "at-r")
"""What a sample is for: R@1; or R-Precision and mAP@R, which ask about all open pairs of a query's pool."""


def folder(split: Split, first: str, second: str) -> Path:
    """Return the folder of a comparison.

    Args:
        split: on which the runs were evaluated.
        first: name of the first run.
        second: name of the second.
    """
    return split.folder / "judged" / f"{first}-vs-{second}"


def sample_path(folder: Path, scores: str) -> Path:
    """Return the table of the pairs to ask about (`schemas.JUDGED_SAMPLE`).

    Args:
        folder: of the comparison.
        scores: one of `SCORES`.

    Raises:
        ConfigError: if there is no such sample.
    """
    if scores not in SCORES:
        raise ConfigError(f"--scores {scores}: {nearest(scores, SCORES)}.", option="--scores")
    return folder / ("sample_r1.parquet" if scores == "r@1" else "sample_at_r.parquet")
