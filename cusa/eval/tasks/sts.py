"""Semantic textual similarity: how well cosines order sentence pairs, for the seven sets of the paper.

Legend: P pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cusa.errors import DataError
from cusa.eval import metrics
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import check_finite
from cusa.manifests.judgements import sts_pairs

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts to (texts, D) unit rows."""

SETS = {
    "STS12": "sts12",
    "STS13": "sts13",
    "STS14": "sts14",
    "STS15": "sts15",
    "STS16": "sts16",
    "STS-B": "stsb-test",
    "SICK-R": "sick-test",
}
"""Names as papers print them, and the split each is scored on."""

PROTOCOL = (
    "Spearman x 100 of the cosine with people's scores; of a year all subsets as one list (SentEval's `all`), STS-B "
    "and SICK-R on their test files; average = mean of the sets"
)


class Row(NamedTuple):
    """One scored pair: where it stands, its sentences, people's score."""

    subset: str
    number: int
    first: str
    second: str
    gold: float


@dataclass(frozen=True)
class SetScores:
    """One set's pairs.

    Attributes:
        subset: (P,) names.
        number: (P,) lines in their files, from 1.
        gold: (P,) people's scores.
        cosine: (P,) float64; 0 where an embedding is zero.
    """

    subset: list[str]
    number: np.ndarray
    gold: np.ndarray
    cosine: np.ndarray


def read(folder: Path) -> dict[str, list[Row]]:
    """Read the pairs of each set there is, those that nobody scored left out.

    Runs of white space become one space, as in SentEval; nothing else is cleaned here.

    Args:
        folder: the one above `STS` and `SICK`, or `STS` itself.

    Raises:
        DataError: if the folder holds none of the sets, or a line of one is no pair.
    """
    wanted = {split: name for name, split in SETS.items()}
    rows: dict[str, list[Row]] = {}
    for part in sts_pairs.parts(folder):
        if part.split not in wanted:
            continue
        for pair in sts_pairs.pairs(part):
            if pair.error:
                raise DataError(
                    f"{part.path}:{pair.number} is no pair: {pair.error}. Restore the file.", path=part.path
                )
            if pair.score is not None:
                both = (" ".join(pair.first.split()), " ".join(pair.second.split()))
                rows.setdefault(wanted[part.split], []).append(Row(part.subset, pair.number, *both, pair.score))
    if not rows:
        raise DataError(
            f"{folder} holds none of the STS sets. Give the folder above STS/STS12-en-test, STS/STSBenchmark and SICK.",
            path=folder,
        )
    return rows


def texts(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return every distinct sentence, the longest first: a batch of like lengths is little padded."""
    sentences = dict.fromkeys(text for pairs in rows.values() for row in pairs for text in (row.first, row.second))
    return sorted(sentences, key=len, reverse=True)


def score(rows: Mapping[str, Sequence[Row]], encode: Encode) -> dict[str, SetScores]:
    """Embed every distinct sentence once and compare the pairs of each set.

    Args:
        rows: of each set.
        encode: the text encoder.

    Source: Conneau and Kiela, LREC 2018, arXiv:1803.05449 (SentEval).
    """
    sentences = texts(rows)
    where = {text: row for row, text in enumerate(sentences)}
    embedded = encode(sentences).astype(np.float64)
    scored = {}
    for name in SETS:
        if name not in rows:
            continue
        subset, number, first, second, gold = zip(*rows[name], strict=True)
        left, right = (embedded[[where[text] for text in side]] for side in (first, second))
        scored[name] = SetScores(list(subset), np.array(number), np.array(gold), cosines(left, right))
    return scored


def cosines(first_PD: np.ndarray, second_PD: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows: (P,); 0 where one is zero, as in SentEval.

    Raises:
        DataError: if a row is not finite.
    """
    if not (np.isfinite(first_PD).all() and np.isfinite(second_PD).all()):
        raise DataError("Sentence embeddings hold NaN or infinity: the model diverged or its weights are broken.")
    # One root of the product: of equal rows it is their inner product to the bit, so that all of them tie at 1.
    lengths = np.sqrt((first_PD * first_PD).sum(1) * (second_PD * second_PD).sum(1))
    cosine_P: np.ndarray = (first_PD * second_PD).sum(1) / np.where(lengths == 0, 1, lengths)
    return cosine_P


def spearman(gold_P: np.ndarray, cosine_P: np.ndarray) -> float:
    """Return Spearman's rank correlation x 100, ties sharing their mean rank; -100 to 100, higher is better.

    It sees order only. NaN where one of the two is constant: nothing is ordered then.

    Raises:
        DataError: if a value is NaN or infinite: it has no rank.
    """
    from scipy.stats import rankdata

    check_finite(cosine_P, "of rated pairs")
    check_finite(gold_P, "people's")
    gold, cosine = rankdata(gold_P), rankdata(cosine_P)
    gold, cosine = gold - gold.mean(), cosine - cosine.mean()
    spread = float(np.sqrt((gold**2).sum() * (cosine**2).sum()))
    return float(100 * (gold * cosine).sum() / spread) if spread else float("nan")


def numbers(scored: Mapping[str, SetScores]) -> dict[str, float]:
    """Return each set's figure, and their mean where all seven are there.

    The authors' average is the mean of the figures as printed, two decimals each; ours is of the figures themselves.
    """
    scores = {name: spearman(one.gold, one.cosine) for name, one in scored.items()}
    return {**scores, "average": float(np.mean(list(scores.values())))} if len(scores) == len(SETS) else scores


def subsets(one: SetScores) -> dict[str, float]:
    """Return the figure of each subset of a set."""
    names = np.array(one.subset)
    return {name: spearman(one.gold[names == name], one.cosine[names == name]) for name in dict.fromkeys(one.subset)}


def intervals(scored: Mapping[str, SetScores], config: EvalConfig) -> dict[str, list[float] | None]:
    """Return the 95 % interval of each set's figure over resampled pairs."""
    out: dict[str, list[float] | None] = {}
    for name, one in scored.items():
        interval = metrics.bootstrap_interval(
            lambda rows, one=one: spearman(one.gold[rows], one.cosine[rows]),  # type: ignore[misc]
            len(one.gold),
            samples=config.bootstrap,
            seed=config.seed,
        )
        out[name] = None if interval is None else [round(interval[0], 4), round(interval[1], 4)]
    return out
