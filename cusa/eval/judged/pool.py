"""The pool of two rankings: the pairs whose truth decides the scores of either, and what is known of each.

The pool of a query holds the first K places of both rankings and every pair of the query that was known to match when
the pool was made. Scores are defined on it; a true match that it does not hold counts for neither run.

Legend: P pairs of the pool, Q queries of a direction, K places, M further pairs of a query's pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NONE = -1
"""Stands where a list has no further pair."""


@dataclass(frozen=True)
class Places:
    """One run's ranking of one direction, as numbers of pairs.

    Attributes:
        top: (Q, K) the pair at each place, best first; `NONE` where the gallery is shorter.
        rest: (Q, M) the other pairs of the query's pool, in no order; `NONE` behind the last.
    """

    top: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True)
class Pool:
    """Two rankings, and what is known of their pairs.

    Attributes:
        images: (P,) image row of each pair.
        captions: (P,) caption row.
        known: (P,) 1 where the pair is known to match, 0 where it is known not to, NaN where nobody has judged it.
        judge: (P,) the machine's probability that the pair matches, 0 to 1.
        places: direction -> the places of the first run and of the second.
    """

    images: np.ndarray
    captions: np.ndarray
    known: np.ndarray
    judge: np.ndarray
    places: Mapping[str, tuple[Places, Places]]

    @property
    def open(self) -> np.ndarray:
        """(P,) whether nobody has judged the pair."""
        return np.asarray(np.isnan(self.known))


@dataclass(frozen=True)
class KnownPairs:
    """Pairs whose truth is known, as codes: image row times captions, plus caption row; sorted, none twice."""

    matches: np.ndarray
    others: np.ndarray


def build(
    rankings: Mapping[str, tuple[np.ndarray, np.ndarray]],
    known: KnownPairs,
    judge: tuple[np.ndarray, np.ndarray],
    num_captions: int,
) -> Pool:
    """Make the pool of two rankings.

    Args:
        rankings: `image-to-text` and `text-to-image` -> (Q, K) gallery rows of the first run and of the second, best
            first, `NONE` where the gallery is shorter; query q is row q of its modality.
        known: the truth of some pairs.
        judge: codes of pairs, sorted, and the machine's probability of each; 0 for every other pair.
        num_captions: captions of the split.
    """
    listed = {way: [_codes(way, top, num_captions) for top in both] for way, both in rankings.items()}
    tops = [codes[codes != NONE] for both in listed.values() for codes in both]
    codes = np.unique(np.concatenate([*tops, known.matches]))
    truth = np.full(len(codes), np.nan)
    truth[np.isin(codes, known.others)] = 0.0
    truth[np.isin(codes, known.matches)] = 1.0
    places = {}
    for way, both in listed.items():
        queries = codes // num_captions if way == "image-to-text" else codes % num_captions
        wanted = np.isin(codes, np.concatenate([*(one.ravel() for one in both), known.matches]))
        members = np.flatnonzero(wanted)
        numbered = [np.where(one == NONE, NONE, np.searchsorted(codes, one)) for one in both]
        places[way] = tuple(Places(top, _rest(top, members, queries[members])) for top in numbered)
    return Pool(
        images=codes // num_captions,
        captions=codes % num_captions,
        known=truth,
        judge=probabilities(codes, judge),
        places=places,  # type: ignore[arg-type]
    )


def probabilities(codes: np.ndarray, judge: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the judge's probability of each pair, 0 where it has none."""
    if not len(judge[0]):
        return np.zeros(len(codes))
    at = np.minimum(np.searchsorted(judge[0], codes), len(judge[0]) - 1)
    return np.where(judge[0][at] == codes, judge[1][at], 0.0)


def _codes(way: str, top: np.ndarray, num_captions: int) -> np.ndarray:
    rows = np.arange(len(top))[:, None]
    codes = rows * num_captions + top if way == "image-to-text" else top * num_captions + rows
    return np.where(top == NONE, NONE, codes)


def _rest(top: np.ndarray, members: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return for each query the members of its pool that are not among its places."""
    order = np.argsort(query, kind="stable")
    members, query = members[order], query[order]
    rows = np.repeat(np.arange(len(top)), top.shape[1])
    width = int(max(members.max(initial=0), top.max(initial=0))) + 1
    placed = np.isin(query.astype(np.int64) * width + members, rows.astype(np.int64) * width + top.ravel())
    members, query = members[~placed], query[~placed]
    counts = np.bincount(query, minlength=len(top))
    rest = np.full((len(top), int(counts.max(initial=0))), NONE)
    column = np.arange(len(members)) - np.repeat(np.cumsum(counts) - counts, counts)
    rest[query, column] = members
    return rest


def expected_outside(pool: Pool, judge: tuple[np.ndarray, np.ndarray], num_captions: int) -> float:
    """Return how many matches the judge expects outside the pool.

    Args:
        pool: the pool.
        judge: as in `build`.
        num_captions: captions of the split.
    """
    codes = pool.images.astype(np.int64) * num_captions + pool.captions
    return float(judge[1][~np.isin(judge[0], codes)].sum())
