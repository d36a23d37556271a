"""Splits for a data set that has none: a share of its images, chosen by their keys, is held out of training."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cusa.errors import ConfigError, DataError
from cusa.manifests.records import ImageRecord
from cusa.pipeline.readers.reading import Reading, Row, Rows
from cusa.pipeline.readers.splits import split_option

TRAIN = "train"


def hold_out(reading: Reading, shares: Mapping[str, float]) -> Reading:
    """Return a reading of which some training images belong to other splits, with all their captions.

    The choice depends on an image's key alone: it is the same tomorrow, on another machine, and for the images of now
    when others are appended. About the share is held out, not exactly: each image is drawn by itself.

    Args:
        reading: a data set.
        shares: split -> share of the training images, 0 to 1.

    Raises:
        ConfigError: if a share or a name is impossible, or all would be held out.
        DataError: if the data set has such a split already, or brings a truth of its splits.
    """
    for split, share in shares.items():
        split_option(split, "--hold-out")
        if split == TRAIN or not 0 < share < 1:
            raise ConfigError(
                f"--hold-out {split}={share:g} is no share to hold out of {TRAIN}. One looks like val=0.1.",
                option="--hold-out",
            )
    if sum(shares.values()) >= 1:
        raise ConfigError(f"--hold-out leaves nothing to train on: {_words(shares)}. Let them sum to less than 1.")
    taken = sorted({row.split for row in reading.rows if isinstance(row, ImageRecord)} & shares.keys())
    if taken or reading.truth:
        what = f"has a split {taken[0]!r} already" if taken else "brings a truth of its own splits"
        raise DataError(f"The data set {what}. Leave --hold-out away, or name another split.", splits=taken)

    def rows() -> Iterator[Row]:
        for row in reading.rows:
            yield row if not isinstance(row, ImageRecord) else row._replace(split=_split(row, shares))

    return replace(reading, rows=Rows(rows), notes=(*reading.notes, f"Held out of {TRAIN} by key: {_words(shares)}."))


def _split(record: ImageRecord, shares: Mapping[str, float]) -> str:
    if record.split != TRAIN:
        return record.split
    drawn = int.from_bytes(hashlib.sha256(record.key.encode()).digest()[:8]) / 2**64
    for split, share in shares.items():
        if drawn < share:
            return split
        drawn -= share
    return TRAIN


def _words(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{split} {share:g}" for split, share in shares.items())
