"""The STS sets as SentEval lays them out: pairs of sentences with a score, read line by line.

`STS/STS12-en-test` ... `STS16-en-test` (`STS.input.SUBSET.txt` beside `STS.gs.SUBSET.txt`), `STS/STSBenchmark`
(`sts-train|dev|test.csv`), `SICK` (`SICK_train|trial|test_annotated.txt`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import DataError

_SICK = {"train": "SICK_train.txt", "trial": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}
_COLUMNS = {"stsb": (5, 6, 4), "sick": (1, 2, 3)}  # both sentences and the score, counted from 0


@dataclass(frozen=True)
class Part:
    """One input file.

    Attributes:
        split: `sts12` ... `sts16` (all subsets of a year), `stsb-train|dev|test`, `sick-train|trial|test`.
        subset: of a year, such as `headlines`; the file's own name elsewhere.
        scores: the yearly sets' scores, which lie apart.
    """

    split: str
    subset: str
    path: Path
    scores: Path | None = None


@dataclass(frozen=True)
class Pair:
    """One line of an input file.

    Attributes:
        number: of the line, from 1.
        score: 0 to 5 (SICK: 1 to 5); None where nobody scored the pair, as in thousands of lines of 2015 and 2016.
        error: why the line is no pair; the sentences are empty then.
    """

    number: int
    first: str
    second: str
    score: float | None
    error: str = ""


def parts(folder: Path) -> list[Part]:
    """Return the input files there are.

    Args:
        folder: the one above `STS` and `SICK`, or `STS` itself.
    """
    sts = folder / "STS" if (folder / "STS").is_dir() else folder
    files = []
    for year in range(12, 17):
        of_year = sts / f"STS{year}-en-test"
        for path in sorted(of_year.glob("STS.input.*.txt")):
            subset = path.stem.removeprefix("STS.input.")
            files.append(Part(f"sts{year}", subset, path, of_year / f"STS.gs.{subset}.txt"))
    for name in ("train", "dev", "test"):
        if (path := sts / "STSBenchmark" / f"sts-{name}.csv").is_file():
            files.append(Part(f"stsb-{name}", path.stem, path))
    for name, file in _SICK.items():
        if (path := folder / "SICK" / file).is_file():
            files.append(Part(f"sick-{name}", path.stem, path))
    return files


def pairs(part: Part) -> Iterator[Pair]:
    """Give a file's pairs in order; the sentences as written, a quotation mark being text.

    Raises:
        DataError: if the file or its scores are missing.
    """
    scores = dict(_lines(part.scores)) if part.scores is not None else None
    kind = part.split.partition("-")[0]
    for number, line in _lines(part.path):
        if kind == "sick" and number == 1:
            continue  # the header
        fields = line.split("\t")
        try:
            if scores is not None:
                first, second, score = fields[0], fields[1], scores.get(number, "").strip()
            else:
                first, second, score = (fields[column] for column in _COLUMNS[kind])
            value = float(score) if score else None
            if value is not None and not math.isfinite(value):
                raise ValueError(f"the score {score!r} is no finite number")
            yield Pair(number, first, second, value)
        except (IndexError, ValueError) as error:
            yield Pair(number, "", "", None, f"{error}: {line[:200]!r}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give a text file's lines with their numbers; bytes that are no UTF-8 are kept as surrogates."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist or is no file. Restore the data set.", path=path) from error
