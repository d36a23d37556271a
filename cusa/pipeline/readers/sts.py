"""Semantic textual similarity: pairs of sentences with a score; samples of texts alone."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.judgements import sts_pairs
from cusa.manifests.judgements.sts_pairs import Part
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read STS 2012-2016, the STS Benchmark and SICK in SentEval's folders, each pair a sample of two texts.

    The label is the score. Splits: `sts12` ... `sts16` (all subsets of a year together), `stsb-train|dev|test`,
    `sick-train|trial|test`. A pair without a score (2015 and 2016 have thousands) is a drop.

    Args:
        source: the folder above `STS` and `SICK`, or `STS` itself.
        images: not used: there are none.
        config: the data set's name.

    Raises:
        DataError: if none of the folders is there.
    """
    parts = sts_pairs.parts(source)
    if not parts:
        raise DataError(f"{source} holds no STS/STS12-en-test ... STS/STSBenchmark or SICK folder.", path=source)
    dataset = config.dataset or "sts"
    files = [file for part in parts for file in (part.path, part.scores) if file is not None]
    return Reading(dataset, Rows(lambda: (r for part in parts for r in _rows(part, dataset))), digests(source, files))


def _rows(part: Part, dataset: str) -> Iterator[Row]:
    for pair in sts_pairs.pairs(part):
        where = f"{part.path.parent.name}/{part.path.name}:{pair.number}"
        if pair.error:
            yield Drop(part.split, "", where, "image", "bad-row", pair.error)
        elif pair.score is None:
            yield Drop(part.split, "", where, "image", "no-score", "the pair has no score")
            for sentence in (pair.first, pair.second):
                yield Drop(part.split, "", where, "caption", "no-score", f"its pair was dropped: {sentence[:200]!r}")
        else:
            key = keys.image_key(dataset, f"{part.split}-{part.subset}-{pair.number:05d}".replace(".", "_"))
            captions = (CaptionRecord("1", pair.first), CaptionRecord("2", pair.second))
            yield ImageRecord(key, part.split, None, where, captions, f"{pair.score:g}")
