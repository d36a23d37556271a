"""From evidence to the probability that a pair is wrong, without a single label.

Pairs that are wrong are made from the data itself: a caption put to an image drawn at random, a caption put to an
image that looks like its own, and all captions of an image put to one drawn at random. For each of these ways a
logistic regression tells them from the data's own pairs. Its score orders the own pairs as one that had seen which of
them are wrong would (Elkan and Noto, KDD 2008). Two densities of the score are known: of planted pairs, f_wrong, and
of the data's own, f = (1 - pi) f_right + pi f_wrong. So
- pi, the share that is wrong, is at most the smallest ratio of tails, f(score > t) / f_wrong(score > t), and equal to
  it where some wrong pairs score beyond every right one (Blanchard, Lee and Scott, JMLR 2010). Captions from anywhere
  come first; the share of captions from look-alikes is read from what they leave of the tails;
- P(wrong | score) = pi f_wrong(score) / f(score), the ratio being fitted as a rising function of the score.

What this assumes: wrong pairs are wrong as if drawn at random, from all images or from those that look alike. All
captions of an image that lie with a look-alike are found less often than their probability says.

Shapes: P own pairs, W planted pairs, F evidence.
"""

from dataclasses import dataclass

import numpy as np

_TAILS = np.linspace(0.3, 0.95, 14)  # shares of the planted pairs beyond the thresholds that pi is read at
_SMALL_TAILS = np.array([0.05, 0.1, 0.2])
"""Further ones, with few own pairs beyond them. Where right pairs can look as bad as a third of the wrong ones, as on
drawn scenes, only these come near the share."""
_MISLED = 1 / 3
"""Of what large tails say: where small ones say less than this, right pairs lie in the large ones."""
_LEAST = 20  # own or planted pairs below which nothing is fitted
HIGHEST = 0.999
"""No pair is certainly wrong."""


@dataclass(frozen=True)
class WrongWay:
    """What one way of being wrong comes to."""

    share: float
    """Of the pairs that are wrong in this way, estimated."""
    probability_P: np.ndarray
    """(P,) of each own pair."""
    middle_F: np.ndarray
    """(F,) halfway between the median of own and planted pairs: below it, evidence speaks against a pair."""
    separation: float
    """Area under the ROC curve of planted against own pairs: 0.5 where the evidence says nothing."""


def way_of_being_wrong(
    own_PF: np.ndarray,
    planted_WF: np.ndarray,
    *,
    known: tuple[float, np.ndarray] | None = None,
    most: float = 1.0,
) -> WrongWay | None:
    """Fit one way of being wrong.

    Args:
        own_PF: the evidence of the data's own pairs; not a number where there is none.
        planted_WF: of pairs that are wrong in this way.
        known: the share of own pairs that is wrong in another way, and the evidence of pairs planted so.
        most: what the share is taken for where the tails leave more: they are no more than a bound.

    Returns:
        The probabilities; None where there are too few pairs to fit anything.
    """
    if min(len(own_PF), len(planted_WF)) < _LEAST:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    neutral = np.nan_to_num(np.nanmean(own_PF, axis=0))
    share_known, others_WF = known or (0.0, planted_WF[:0])
    groups = [np.where(np.isnan(rows), neutral, rows).astype(np.float64) for rows in (own_PF, planted_WF, others_WF)]
    scale = np.maximum(groups[0].std(0), 1e-9)
    own, planted, others = (rows / scale for rows in groups)
    rows = np.concatenate([own, planted])
    is_planted = np.arange(len(rows)) >= len(own)
    weights = np.where(is_planted, 0.5 / len(planted), 0.5 / len(own)) * len(rows)
    model = LogisticRegression(max_iter=1000).fit(rows, is_planted, sample_weight=weights)
    own_score, planted_score = model.decision_function(own), model.decision_function(planted)
    before = (share_known, model.decision_function(others)) if len(others) else (0.0, planted_score[:0])
    share = min(wrong_share(own_score, planted_score, known=before), most)
    return WrongWay(
        share,
        np.clip(share * density_ratio(own_score, planted_score), 0, HIGHEST),
        (np.median(own, axis=0) + np.median(planted, axis=0)) / 2 * scale,
        float(roc_auc_score(is_planted, np.concatenate([own_score, planted_score]))),
    )


def wrong_share(
    own_P: np.ndarray, planted_W: np.ndarray, *, known: tuple[float, np.ndarray] = (0.0, np.zeros(0))
) -> float:
    """Estimate the share of own pairs that are wrong: the smallest ratio of tails.

    Args:
        own_P: scores of the own pairs; larger is worse.
        planted_W: of planted pairs.
        known: a share of the own pairs that is wrong in another way already, and scores of pairs planted so.

    Returns:
        0 to 1.

    Source: Blanchard, Lee and Scott, "Semi-supervised novelty detection", JMLR 2010, section 5.
    """
    from scipy.special import gammaincinv

    share, others = known
    sizes = np.concatenate([_SMALL_TAILS, _TAILS])
    thresholds = np.quantile(planted_W, 1 - sizes)
    beyond = np.array([(own_P > threshold).sum() for threshold in thresholds], dtype=float)
    # Half a pair more, so that a tail in which no own pair was seen is not taken for proof that there is none; in small
    # tails as many as a Poisson number's mean may be, with a confidence of 84 %: the least of noisy ratios is too low.
    small = np.arange(len(sizes)) < len(_SMALL_TAILS)
    tails = np.where(small, gammaincinv(beyond + 1, 0.84), beyond + 0.5) / len(own_P)
    if share:
        tails -= share * np.array([(others > threshold).mean() for threshold in thresholds])
    ratios = tails / sizes
    by_small, by_large = float(ratios[small].min()), float(ratios[~small].min())
    return float(np.clip(by_small if by_small < _MISLED * by_large else by_large, 0, 1 - share))


def density_ratio(own_P: np.ndarray, planted_W: np.ndarray) -> np.ndarray:
    """Return f_wrong / f at the score of each own pair, as a function that rises.

    Args:
        own_P: scores of the own pairs.
        planted_W: scores of planted pairs.

    Returns:
        (P,), at least 0.
    """
    from sklearn.isotonic import IsotonicRegression

    scores = np.concatenate([own_P, planted_W])
    is_planted = np.arange(len(scores)) >= len(own_P)
    weights = np.where(is_planted, 1 / len(planted_W), 1 / len(own_P))
    levels = IsotonicRegression().fit_transform(scores, is_planted, sample_weight=weights)
    # A level's value stands at its centre, and the function rises between centres: pairs keep their order.
    values, place = np.unique(levels, return_inverse=True)
    mass = np.bincount(place, weights)
    centres = np.bincount(place, weights * scores) / mass
    # Half a pair on both sides: no level is without wrong pairs, and none without right ones.
    half = 0.5 / len(own_P)
    values = np.clip((values * mass + half / 10) / (mass + half), 1e-12, None)
    values = np.maximum.accumulate(values)
    logit = np.interp(own_P, centres, np.log(values / np.maximum(1 - values, 1e-12)))
    low, high = own_P < centres[0], own_P > centres[-1]
    logit[low] -= centres[0] - own_P[low]
    logit[high] += 1e-3 * (own_P[high] - centres[-1])
    return np.asarray(np.exp(logit))
