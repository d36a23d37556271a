"""How many positives a data set is missing, with an interval, and the R@1 that no model can be expected to exceed.

Shapes: C candidates, H strata, Q queries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

EDGES = (0.02, 0.1, 0.3, 0.6)
"""Where strata of candidates are cut: in `p_positive`; without a calibration, in shares of the ranking by score."""
_SHARES = (0.5, 0.9, 0.99)
_DRAWS = 20_000
_NODES = 96  # of the quadrature in `ceiling`: exact for up to 190 further matches a query
_FEWEST = 5  # pairs a stratum is judged by at least


@dataclass(frozen=True)
class Strata:
    """All open pairs of a split, cut into strata.

    Attributes:
        of_candidates: (C,) the stratum of each candidate, 1 to H - 1.
        sizes: (H,) pairs in each; stratum 0 holds the open pairs that are no candidates.
        names: (H,) what each is, in words.
    """

    of_candidates: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]


def strata(p_positive: np.ndarray, score: np.ndarray, num_open: int) -> Strata:
    """Cut the open pairs into strata: by probability where there is one, else by score."""
    calibrated = len(p_positive) > 0 and not np.isnan(p_positive).all()
    if calibrated:
        which = np.searchsorted(EDGES, p_positive, side="right")
        edges = ("0", *(f"{edge:g}" for edge in EDGES), "1")
        names = [f"p_positive {low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]
    else:
        cuts = np.quantile(score, _SHARES) if len(score) else np.zeros(len(_SHARES))
        which = np.searchsorted(cuts, score, side="right")
        edges = ("lowest", *(f"{cut:.3f}" for cut in cuts), "highest")
        names = [f"score {low} to {high}" for low, high in zip(edges, edges[1:], strict=False)]
    sizes = np.bincount(which + 1, minlength=len(names) + 1)
    sizes[0] = num_open - len(score)
    return Strata(which + 1, sizes, ("no candidate", *names))


def allocate(cut: Strata, p_positive: np.ndarray, number: int) -> np.ndarray:
    """Return how many pairs of each stratum to judge: Neyman's allocation, size times standard deviation.

    Args:
        cut: the strata.
        p_positive: of the candidates; where it is not known, one half.
        number: pairs to judge in all, about.
    """
    p = np.where(np.isnan(p_positive), 0.5, p_positive)
    filled = np.maximum(np.bincount(cut.of_candidates, minlength=len(cut.sizes)), 1)
    mean = np.bincount(cut.of_candidates, p, minlength=len(cut.sizes)) / filled
    mean[0] = min(0.001, mean[1] if len(mean) > 1 else 0.001)  # pairs that no teacher calls near rarely match
    share = cut.sizes * np.sqrt(np.maximum(mean * (1 - mean), 1e-4))
    wanted = np.floor(number * share / max(share.sum(), 1e-12)).astype(np.int64)
    return np.asarray(np.minimum(np.maximum(wanted, _FEWEST), cut.sizes))


def draw(
    cut: Strata, wanted: np.ndarray, codes: np.ndarray, *, owner: np.ndarray, num_images: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs at random within each stratum.

    Args:
        cut: the strata.
        wanted: (H,) pairs of each.
        codes: (C,) image row times captions, plus caption row, of each candidate.
        owner: (captions,) the image row that owns each caption.
        num_images: images of the split.
        seed: the same seed draws the same pairs of the same candidates.

    Returns:
        Codes and strata of the drawn pairs.
    """
    rng = np.random.default_rng(seed)
    out, which = [], []
    for stratum in range(1, len(cut.sizes)):
        inside = np.flatnonzero(cut.of_candidates == stratum)
        picked = np.sort(rng.permutation(inside)[: wanted[stratum]])
        out.append(codes[picked])
        which.append(np.full(len(picked), stratum))
    outside: list[int] = []
    taken = {int(code) for code in codes} if len(codes) < 2_000_000 else None
    ordered = np.sort(codes) if taken is None else codes
    while len(outside) < wanted[0]:
        code = int(rng.integers(0, num_images * len(owner)))
        image, caption = divmod(code, len(owner))
        if taken is not None:
            known = code in taken
        else:
            place = int(np.searchsorted(ordered, code))
            known = place < len(ordered) and int(ordered[place]) == code
        if owner[caption] != image and not known and code not in outside:
            outside.append(code)
    out.insert(0, np.array(outside, dtype=np.int64))
    which.insert(0, np.zeros(len(outside), dtype=np.int64))
    return np.concatenate(out), np.concatenate(which)


def enough(sizes: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return whether each stratum was judged well enough to be counted: five pairs, or all it has."""
    return np.asarray((judged > 0) & (judged >= np.minimum(_FEWEST, sizes)))


@dataclass(frozen=True)
class Estimate:
    """How many of the open pairs match.

    Attributes:
        total: the estimate.
        low: lower end of the 95 % interval.
        high: upper end.
        rates: (3, H) share of matches in each stratum: at the estimate, and scaled to either end.
    """

    total: float
    low: float
    high: float
    rates: np.ndarray


def estimate(sizes: np.ndarray, judged: np.ndarray, matches: np.ndarray, *, seed: int = 0) -> Estimate:
    """Estimate the matches among all pairs from those judged at random within strata.

    The total is the usual stratified estimate, the sum of N m / n. For the interval each stratum's share of matches has
    the posterior of a binomial with Jeffreys' prior, Beta(m + 1/2, n - m + 1/2), pairs that were judged count as what
    they are, and 20,000 draws of the sum over strata give its 2.5 and 97.5 percentiles. A stratum of which fewer than
    five pairs were judged is left out: too little is known of it.

    Source: stratified sampling as in Cochran, Sampling Techniques, chapter 5; the interval after Brown, Cai and
    DasGupta, Statistical Science 2001, who recommend Jeffreys' for small samples.

    Args:
        sizes: (H,) pairs in each stratum.
        judged: (H,) pairs judged of each.
        matches: (H,) of them matches.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    known = enough(sizes, judged)
    rest = np.where(known, sizes - judged, 0)
    shares = rng.beta(matches + 0.5, judged - matches + 0.5, size=(_DRAWS, len(sizes)))
    totals = matches[known].sum() + (shares * rest).sum(1)
    low, high = np.quantile(totals, (0.025, 0.975))
    middle = np.where(known, matches / np.maximum(judged, 1), 0.0)
    total = float(np.clip(middle @ sizes, low, high))
    scaled = [middle * (bound / total) if total else middle for bound in (low, high)]
    return Estimate(total, float(low), float(high), np.clip(np.stack([middle, *scaled]), 0, 1))


def ceiling(query: np.ndarray, probability: np.ndarray, own: np.ndarray, *, elsewhere: float = 0.0) -> float:
    """Return the R@1 to be expected of a model that ranks every true match before everything else.

    It cannot know which of the true matches the data set happens to list: with k listed and M others its first answer
    is a listed one with probability k / (k + M). With independent matches of probability p_c the mean over M is the
    integral of k s^(k-1) prod_c (1 - p_c + p_c s) over s from 0 to 1, taken by Gauss-Legendre.

    Args:
        query: (C,) the query of each candidate, from 0.
        probability: (C,) that the candidate matches.
        own: (Q,) matches that the data set lists for each query; queries without any are left out.
        elsewhere: further matches expected of each query outside the candidates (as many as a Poisson number).

    Returns:
        The mean over queries, 0 to 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    nodes, weights = (nodes + 1) / 2, weights / 2
    total = np.zeros(len(own))
    for s, weight in zip(nodes, weights, strict=True):
        logs = np.bincount(query, np.log1p(-probability * (1 - s)), minlength=len(own)) - elsewhere * (1 - s)
        total += weight * own * s ** np.maximum(own - 1, 0) * np.exp(logs)
    return float(total[own > 0].mean()) if (own > 0).any() else 0.0


def ceilings(
    images: np.ndarray,
    captions: np.ndarray,
    probability: np.ndarray,
    caption_owner: np.ndarray,
    *,
    num_images: int,
    elsewhere: float = 0.0,
) -> dict[str, float]:
    """Return the ceiling of both directions.

    Args:
        images: (C,) image row of each candidate.
        captions: (C,) caption row.
        probability: (C,) that it matches.
        caption_owner: (captions,) the image row that owns each caption.
        num_images: images of the split.
        elsewhere: matches expected outside the candidates, in all.
    """
    own = np.bincount(caption_owner, minlength=num_images).astype(float)
    ones = np.ones(len(caption_owner))
    return {
        "image-to-text": ceiling(images, probability, own, elsewhere=elsewhere / max(num_images, 1)),
        "text-to-image": ceiling(captions, probability, ones, elsewhere=elsewhere / max(len(ones), 1)),
    }


def stratum_rows(cut: Strata, estimated: Estimate, judged: np.ndarray, matches: np.ndarray) -> list[dict[str, Any]]:
    """Return a row a stratum for people: its name, size, pairs judged, matches among them, and estimated share."""
    return [
        {"stratum": name, "pairs": int(size), "judged": int(n), "matches": int(m), "share": float(share)}
        for name, size, n, m, share in zip(cut.names, cut.sizes, judged, matches, estimated.rates[0], strict=True)
    ]
