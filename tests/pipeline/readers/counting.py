"""What the tests of readers count."""

from collections import Counter
from pathlib import Path
from typing import Any

from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig


def images(reading: readers.Reading) -> Counter[str]:
    """Return the images of each split."""
    return Counter(record.split for record in reading.images)


def captions(reading: readers.Reading) -> Counter[str]:
    """Return the captions of each split."""
    counted = Counter[str]()
    for record in reading.images:
        counted[record.split] += len(record.captions)
    return counted


def shard_counts(reading: readers.Reading, out: Path) -> dict[str, Any]:
    """Shard a reading into `out`; return the counts."""
    return dict(shard.run(ShardConfig(workers=1), reading=reading, out=out).counts)
