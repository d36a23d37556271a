"""Semantic textual similarity: pairs of sentences with a score; samples of texts alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, lines


@dataclass(frozen=True)
class _Part:
    """One input file: the split it goes to, and its scores where they lie apart."""

    split: str
    path: Path
    scores: Path | None = None


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read STS 2012-2016, the STS Benchmark and SICK in SentEval's folders, each pair a sample of two texts.

    The label is the score as written. Splits: `sts12` ... `sts16` (all subsets of a year together),
    `stsb-train|dev|test`, `sick-train|trial|test`. A pair without a score (2015 and 2016 have thousands) is a drop.

    Args:
        source: the folder above `STS` and `SICK`, or `STS` itself.
        images: not used: there are none.
        config: the data set's name.

    Raises:
        DataError: if none of the folders is there.
    """
    parts = list(_parts(source))
    if not parts:
        raise DataError(f"{source} holds no STS/STS12-en-test ... STS/STSBenchmark or SICK folder.", path=source)
    dataset = config.dataset or "sts"
    files = [file for part in parts for file in (part.path, part.scores) if file is not None]
    return Reading(dataset, Rows(lambda: (r for part in parts for r in _rows(part, dataset))), digests(source, files))


def _parts(source: Path) -> Iterator[_Part]:
    sts = source / "STS" if (source / "STS").is_dir() else source
    for year in range(12, 17):
        folder = sts / f"STS{year}-en-test"
        for path in sorted(folder.glob("STS.input.*.txt")):
            yield _Part(f"sts{year}", path, folder / path.name.replace(".input.", ".gs."))
    for name in ("train", "dev", "test"):
        if (path := sts / "STSBenchmark" / f"sts-{name}.csv").is_file():
            yield _Part(f"stsb-{name}", path)
    for name, file in (("train", "SICK_train.txt"), ("trial", "SICK_trial.txt"), ("test", "SICK_test_annotated.txt")):
        if (path := source / "SICK" / file).is_file():
            yield _Part(f"sick-{name}", path)


def _rows(part: _Part, dataset: str) -> Iterator[Row]:
    subset = part.path.stem.removeprefix("STS.input.")
    scores = dict(lines(part.scores)) if part.scores is not None else None
    for number, line in lines(part.path):
        fields = line.split("\t")  # no quoting: a quotation mark is text
        where = f"{part.path.parent.name}/{part.path.name}:{number}"
        if part.split.startswith("sick") and number == 1:
            continue
        try:
            if scores is not None:
                score, first, second = scores.get(number, "").strip(), fields[0], fields[1]
            elif part.split.startswith("stsb"):
                score, first, second = fields[4], fields[5], fields[6]
            else:
                score, first, second = fields[3], fields[1], fields[2]
            if score:
                float(score)
        except (IndexError, ValueError) as error:
            yield Drop(part.split, "", where, "image", "bad-row", f"{error}: {line[:200]!r}")
            continue
        if not score:
            yield Drop(part.split, "", where, "image", "no-score", "the pair has no score")
            for sentence in (first, second):
                yield Drop(part.split, "", where, "caption", "no-score", f"its pair was dropped: {sentence[:200]!r}")
            continue
        key = keys.image_key(dataset, f"{part.split}-{subset}-{number:05d}".replace(".", "_"))
        captions = (CaptionRecord("1", first), CaptionRecord("2", second))
        yield ImageRecord(key, part.split, None, where, captions, score)
