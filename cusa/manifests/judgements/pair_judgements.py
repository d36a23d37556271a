"""One judgement for each pair that several people reviewed, and how far the reviewers agree."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import POSITIVE, UNDO, Verdict
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

DISPUTED = "disputed"
"""The answer where no verdict has more than half of the votes."""

_SKIP = "skip"


@dataclass(frozen=True)
class PairJudgement:
    """The reviewers' judgement of one pair."""

    image_key: str
    caption_key: str
    verdict: str
    """`match`, `related`, `no match` or `duplicate`, if it has more than half of the votes; else `disputed`."""
    votes: Mapping[str, str]
    """Reviewer -> their last verdict."""

    @property
    def positive(self) -> bool:
        """Whether the caption is true of the image."""
        return self.verdict in POSITIVE

    @property
    def unanimous(self) -> bool:
        """Whether all who voted said the same."""
        return len(set(self.votes.values())) == 1


@dataclass(frozen=True)
class Agreement:
    """How far reviewers agree, over the pairs that at least two of them judged."""

    pairs: int
    unanimous: int
    """Pairs of which all who voted said the same."""
    alpha: float | None
    """Krippendorff's alpha for nominal data: 1 = all agree, 0 = as by chance; None where it is not defined."""


@dataclass(frozen=True)
class Judgements:
    """The judgements of a split, one a pair."""

    judgements: tuple[PairJudgement, ...]
    unknown: tuple[PairJudgement, ...]
    """Those whose image or caption the split does not hold (any more): kept, and used nowhere."""
    skipped: frozenset[tuple[str, str]]
    """Pairs that were shown and only skipped."""
    digest: str
    """SHA-256 of the judged pairs and their verdicts; of an empty list where nobody has judged."""

    def pairs(self, *words: str) -> list[tuple[str, str]]:
        """Return image and caption key of the pairs with one of these verdicts."""
        return [(one.image_key, one.caption_key) for one in self.judgements if one.verdict in words]

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know, in full sentences."""
        if not self.unknown:
            return ()
        first = self.unknown[0]
        return (
            f"{len(self.unknown)} pairs were judged whose image or caption the split does not hold, the first "
            f"{first.image_key} with {first.caption_key}: their verdicts are kept and not used.",
        )


def standing(rows: Iterable[Verdict]) -> list[Verdict]:
    """Return each reviewer's last verdict on each pair, undone ones left out.

    A skip counts only where the reviewer gave no other verdict.

    Args:
        rows: in the order in which they came.
    """
    rows = list(rows)
    undone = {row.undoes for row in rows}
    last: dict[tuple[str, str, str], Verdict] = {}
    for row in rows:
        place = (row.image_key, row.caption_key, row.reviewer)
        if row.verdict == UNDO or row.id in undone or (row.verdict == _SKIP and place in last):
            continue
        last[place] = row
    return list(last.values())


def majority_verdicts(rows: Iterable[Verdict]) -> list[PairJudgement]:
    """Return one judgement for each pair that somebody judged, in the order in which the pairs came.

    A verdict stands if more than half of those who voted gave it. `match` and `duplicate` both say that the caption is
    true: together they count as `match` where neither has that many alone.

    Args:
        rows: verdicts, taken-back ones and undos included.
    """
    votes: dict[tuple[str, str], dict[str, str]] = {}
    for row in standing(rows):
        if row.verdict != _SKIP:
            votes.setdefault((row.image_key, row.caption_key), {})[row.reviewer] = row.verdict
    return [PairJudgement(*pair, _majority(given.values()), given) for pair, given in votes.items()]


def _majority(votes: Collection[str]) -> str:
    (best, number), *_ = Counter(votes).most_common()
    if 2 * number > len(votes):
        return best
    return "match" if 2 * sum(vote in POSITIVE for vote in votes) > len(votes) else DISPUTED


def agreement(judgements: Iterable[PairJudgement]) -> Agreement:
    """Measure how far reviewers agree.

    Krippendorff's alpha, nominal: 1 - D_o / D_e, D_o being how often two votes on one pair differ and D_e how often any
    two votes do; each pair weighs as many votes as it has, and pairs with one vote are left out.

    Source: Krippendorff, Computing Krippendorff's alpha-reliability, 2011, section C.
    """
    shared = [list(one.votes.values()) for one in judgements if len(one.votes) > 1]
    every = Counter(vote for votes in shared for vote in votes)
    number = sum(every.values())
    observed = sum(_differing(Counter(votes)) / (len(votes) - 1) for votes in shared)
    expected = _differing(every) / (number - 1) if number > 1 else 0
    alpha = 1 - observed / expected if expected else None
    return Agreement(len(shared), sum(len(set(votes)) == 1 for votes in shared), alpha)


def _differing(votes: Counter[str]) -> int:
    """Return the ordered couples of votes that differ."""
    number = sum(votes.values())
    return sum(count * (number - count) for count in votes.values())


def read(split: Split, *, folder: Path | None = None) -> Judgements:
    """Read the verdicts of a split and form one judgement for each pair.

    Args:
        split: whose images and captions the pairs must name.
        folder: where the verdicts lie; the split's `audit` folder if None.

    Raises:
        DataError: if the verdicts cannot be read.
    """
    rows = verdicts.read(folder or split.folder / verdicts.FOLDER)
    every = majority_verdicts(rows)
    there = [one.image_key in split.image_row and one.caption_key in split.caption_row for one in every]
    known_pairs = tuple(one for one, known in zip(every, there, strict=True) if known)
    unknown = tuple(one for one, known in zip(every, there, strict=True) if not known)
    seen = {(one.image_key, one.caption_key) for one in every}
    skipped = {(row.image_key, row.caption_key) for row in standing(rows)} - seen
    digest = store.digest(sorted((one.image_key, one.caption_key, one.verdict) for one in known_pairs))
    return Judgements(known_pairs, unknown, frozenset(skipped), digest)


def group_first(number: int, couples: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for each of `number` rows the first row that couples tie it to, itself where none does."""
    first = np.arange(number, dtype=np.int64)

    def find(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        return row

    for one, other in couples:
        low, high = sorted((find(int(one)), find(int(other))))
        first[high] = low
    return np.array([find(row) for row in range(number)], dtype=np.int64)


def same_images(split: Split, judgements: Judgements) -> np.ndarray:
    """Return for each image row the first row of the images that people judged its duplicates: int64 (images,)."""
    rows = pair_rows(split, judgements, "duplicate")
    return group_first(split.num_images, list(zip(rows[:, 0], split.caption_owner[rows[:, 1]], strict=True)))


def pair_rows(split: Split, judgements: Judgements, *words: str) -> np.ndarray:
    """Return image and caption row of the pairs with one of these verdicts: int64 (pairs, 2)."""
    rows = [(split.image_row[image], split.caption_row[caption]) for image, caption in judgements.pairs(*words)]
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def true_pairs(split: Split, judgements: Judgements) -> np.ndarray:
    """Return every pair that is true by the data set or by its verdicts, image and caption row: int64 (pairs, 2).

    A caption is true of its own image, of those it was judged to match, and of every image that is one with any of
    these; sorted by image, then caption.
    """
    matches = pair_rows(split, judgements, "match")
    captions = np.arange(split.num_captions)
    pairs = np.concatenate([np.stack([split.caption_owner, captions], 1), matches])
    first_row = same_images(split, judgements)
    members: dict[int, list[int]] = {}
    for row, first in enumerate(first_row.tolist()):
        members.setdefault(first, []).append(row)
    every = [(row, caption) for image, caption in pairs.tolist() for row in members[int(first_row[image])]]
    return np.unique(np.array(every, dtype=np.int64).reshape(-1, 2), axis=0)
