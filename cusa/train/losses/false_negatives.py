"""False negatives: pairs that the data set does not list although they may be true.

There are six ways to handle them: `soft` leaves them to the soft labels of CSA and USA; `mask` removes those that a
teacher calls near from InfoNCE's denominators; `debiased` lets each weigh there as much as it is probably false;
`hardness` lets each weigh there by the student's own cosine, and `thresholds` removes what is above a threshold learned
for each item (both in `by_rows`); `positive` makes listed ones positives of InfoNCE.

Legend: B pairs in the batch, R of their rows, P listed pairs, Q of those that the batch holds, E width of a teacher.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cusa.errors import ConfigError

FalseNegatives = Literal["soft", "mask", "debiased", "hardness", "thresholds", "positive"]
FALSE_NEGATIVES: tuple[FalseNegatives, ...] = ("soft", "mask", "debiased", "hardness", "thresholds", "positive")
DENOMINATORS_ONLY = ("debiased", "hardness", "thresholds")
"""What changes InfoNCE's denominators in a way that the sigmoid loss has not."""
BY_ROWS = ("hardness", "thresholds")
"""What needs whole rows of the student's cosines; see `by_rows`."""
Threshold = float | Literal["positive"] | None
MarginKind = Literal["absolute", "relative"]

ROUNDING = 1e-5
"""Cosines that differ by less are called equal: a caption that stands twice is as near as itself."""


class Nearness(NamedTuple):
    """How near a teacher must call two items for their foreign pairs to leave the denominator.

    Each teacher has a threshold: a cosine; or `positive`: the lowest cosine among the item's own captions in the batch
    (or with its own image, which is 1), less the margin; or None: this teacher is not used. A pair leaves where the
    cosine of any used teacher is at least its threshold. Pairs of the same image never leave.

    Source: Solatorio 2024, arXiv:2402.16829, section 3, masks what a guide model calls nearer than the positive pair;
    Moreira et al. 2024, arXiv:2407.15831, section 3, leave a margin below it, absolute or a share of it. Their guides
    embed queries and documents alike; our teachers are uni-modal, so the image teacher compares the two images, the
    text teacher the two captions, and the own captions' similarity stands for the positive pair's.
    """

    image: Threshold = None
    text: Threshold = None
    margin: float = 0.0
    """Of `positive`: how far below the own captions' cosine a pair leaves already, at least 0."""
    margin_kind: MarginKind = "absolute"
    """`absolute`: in units of cosine; `relative`: a share of the own captions' cosine, whatever its sign."""

    def check(self) -> None:
        """Check the thresholds.

        Raises:
            ConfigError: if no teacher has a threshold, or a threshold is neither a cosine nor `positive`.
        """
        if self.image is None and self.text is None:
            raise ConfigError(
                "false_negatives is 'mask', but no threshold is set. Set mask_text or mask_image to a cosine, or to "
                "'positive'.",
                key="mask_text",
            )
        for name, threshold in (("mask_image", self.image), ("mask_text", self.text)):
            number = isinstance(threshold, int | float) and -1 <= threshold <= 1
            if not (threshold is None or threshold == "positive" or number):
                raise ConfigError(f"{name} is {threshold!r}; allowed: a cosine from -1 to 1, or 'positive'.", key=name)
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"mask_margin is {self.margin}; allowed: 0 to 1.", key="mask_margin")
        if self.margin_kind not in ("absolute", "relative"):
            raise ConfigError(
                f"mask_margin_kind is {self.margin_kind!r}; allowed: absolute, relative.", key="mask_margin_kind"
            )
        if self.margin and "positive" not in (self.image, self.text):
            raise ConfigError(
                f"mask_margin is {self.margin}, and neither mask_image nor mask_text is 'positive', which it belongs "
                "to. Set one to 'positive', or mask_margin to 0.",
                key="mask_margin",
            )


class Near(NamedTuple):
    """The thresholds of every item of a batch, one vector a teacher, and the image ids."""

    image_B: Tensor | None
    text_B: Tensor | None
    image_ids_B: Tensor

    def ignored(
        self, image_TT: Tensor | None, text_TT: Tensor | None, rows: slice, columns: slice, axis: int
    ) -> Tensor:
        """Return which foreign pairs of a tile leave the denominators of the items that run along an axis.

        Args:
            image_TT: the image teacher's cosines of rows and columns; may be None where it has no threshold.
            text_TT: the text teacher's.
            rows: of the batch, which the tile's rows are.
            columns: likewise.
            axis: 1: the items are the rows, and their softmax runs over columns; 0: the other way round.

        Returns:
            Booleans of the tile's shape.
        """
        items = rows if axis == 1 else columns
        ignored_TT = None
        for threshold_B, cosine_TT in ((self.image_B, image_TT), (self.text_B, text_TT)):
            if threshold_B is not None:
                assert cosine_TT is not None
                near_TT = cosine_TT >= threshold_B[items].unsqueeze(axis)
                ignored_TT = near_TT if ignored_TT is None else ignored_TT.logical_or_(near_TT)
        assert ignored_TT is not None
        return ignored_TT.logical_and_(self.image_ids_B[rows, None] != self.image_ids_B[None, columns])


def near(rule: Nearness, image: Tensor | None, text: Tensor | None, image_ids_B: Tensor) -> Near:
    """Return the thresholds of every item.

    Args:
        rule: cosines, or `positive`.
        image: (B, E) unit rows of the image teacher; None where it has no threshold.
        text: (B, any) unit rows of the text teacher; likewise.
        image_ids_B: integers, equal for pairs of the same image.

    Returns:
        Thresholds in the rows' type.
    """
    both = ((rule.image, image), (rule.text, text))
    image_B, text_B = (_threshold(rule, threshold, rows, image_ids_B) for threshold, rows in both)
    return Near(image_B, text_B, image_ids_B)


def _threshold(rule: Nearness, threshold: Threshold, rows: Tensor | None, image_ids_B: Tensor) -> Tensor | None:
    if threshold is None:
        return None
    assert rows is not None
    if threshold != "positive":
        return rows.new_full((len(rows),), threshold)
    own_B = farthest_own(rows, image_ids_B)
    # A share of a negative cosine is taken from its size: else the threshold would rise above the positive pair.
    margin_B = rule.margin * (own_B.abs() if rule.margin_kind == "relative" else torch.ones_like(own_B))
    return own_B - margin_B - ROUNDING


def farthest_own(rows: Tensor, image_ids_B: Tensor) -> Tensor:
    """Return for every item its lowest cosine with an item of the same image, 1 for one that is alone.

    Args:
        rows: (B, E) unit rows.
        image_ids_B: integers.

    Returns:
        (B,); memory and time of O(B E) for each item that an image has.
    """
    ids_B, order_B = image_ids_B.sort(stable=True)
    ordered = rows[order_B]
    lowest_B = rows.new_ones(len(rows))
    for distance in range(1, len(rows)):
        is_own = ids_B[distance:] == ids_B[:-distance]
        if not is_own.any():
            break
        cosine = (ordered[distance:] * ordered[:-distance]).sum(1).where(is_own, 1.0)
        lowest_B[distance:] = lowest_B[distance:].minimum(cosine)
        lowest_B[:-distance] = lowest_B[:-distance].minimum(cosine)
    return torch.empty_like(lowest_B).index_copy_(0, order_B, lowest_B)


class Extra(NamedTuple):
    """Listed pairs that the batch holds: position of the image, position of the text."""

    image_Q: Tensor
    text_Q: Tensor


def find_listed(pairs: Tensor, image_ids_B: Tensor, text_ids_B: Tensor) -> Extra:
    """Return where the batch holds listed pairs that are not pairs already.

    Args:
        pairs: (P, 2) integers: an image's id, a caption's id.
        image_ids_B: the images' ids; one may stand several times, and counts each time.
        text_ids_B: the captions' ids; likewise.

    Returns:
        Positions in the batch, each pair once.
    """
    pairs = pairs.unique(dim=0)
    image_P, text_P = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    images, texts = _Places(image_ids_B, image_P), _Places(text_ids_B, text_P)
    each_P = images.count_P * texts.count_P
    pair_Q = torch.repeat_interleave(each_P)
    nth_Q = torch.arange(len(pair_Q), device=pairs.device) - (each_P.cumsum(0) - each_P)[pair_Q]
    image_Q = images.nth(pair_Q, nth_Q // texts.count_P[pair_Q].clamp(min=1))
    text_Q = texts.nth(pair_Q, nth_Q % texts.count_P[pair_Q].clamp(min=1))
    foreign_Q = image_ids_B[image_Q] != image_ids_B[text_Q]
    return Extra(image_Q[foreign_Q], text_Q[foreign_Q])


class _Places:
    """Where each of P ids stands among those of a batch."""

    def __init__(self, ids_B: Tensor, wanted_P: Tensor) -> None:
        ordered_B, self._order_B = ids_B.sort(stable=True)
        self._first_P = torch.searchsorted(ordered_B, wanted_P)
        self.count_P = torch.searchsorted(ordered_B, wanted_P, right=True) - self._first_P

    def nth(self, pair_Q: Tensor, nth_Q: Tensor) -> Tensor:
        """Return the position of the nth place of each pair's id."""
        return self._order_B[self._first_P[pair_Q] + nth_Q]


def targets(
    image_ids_B: Tensor, rows: slice, extra: Extra | None, dtype: torch.dtype, *, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE's targets of some rows, images first, then texts: (R, B) each, rows that sum to 1.

    Args:
        image_ids_B: integers, equal for pairs of the same image.
        rows: whose targets.
        extra: further positives: of the image the text, of the text the image.
        dtype: of the result.
        smoothing: share of each row that is spread evenly over all B columns, from 0 to below 1.

    Source of the smoothing: Szegedy et al., CVPR 2016, arXiv:1512.00567, section 7.
    """
    directions = []
    for own_Q, other_Q in both_ways(extra):
        same_RB = (image_ids_B[rows, None] == image_ids_B[None, :]).to(dtype)
        if own_Q is not None and other_Q is not None:
            inside = (own_Q >= rows.start) & (own_Q < rows.stop)
            same_RB[own_Q[inside] - rows.start, other_Q[inside]] = 1
        hard_RB = same_RB / same_RB.sum(1, keepdim=True)
        directions.append(hard_RB * (1 - smoothing) + smoothing / len(image_ids_B) if smoothing else hard_RB)
    return directions[0], directions[1]


def smoothed_pull(
    image: Tensor, text: Tensor, image_ids_B: Tensor | None, rows: slice, extra: Extra | None, *, smoothing: float
) -> Tensor:
    """Return `pull` by targets of which a share is spread evenly over all columns; see `targets`."""
    drawn = pull(image, text, image_ids_B, rows, extra)
    if not smoothing:
        return drawn
    even = sum(
        (
            own[rows].sum(0, dtype=drawn.dtype) @ other.sum(0, dtype=drawn.dtype)
            for own, other in ((image, text), (text, image))
        ),
        drawn.new_zeros(()),
    )
    return (1 - smoothing) * drawn + smoothing / len(image) * even


def pull(image: Tensor, text: Tensor, image_ids_B: Tensor | None, rows: slice, extra: Extra | None) -> Tensor:
    """Return the sum of similarities weighted by targets, `sum_ij y_ij s_ij`, of images' and texts' rows together.

    The same as with `targets`, in memory of O(B D); differentiable.

    Args:
        image: (B, D) unit rows.
        text: (B, D) unit rows.
        image_ids_B: integers, equal for pairs of the same image; None: all different.
        rows: whose targets.
        extra: further positives.

    Returns:
        A scalar in float64.
    """
    exact = image.dtype if image.device.type == "mps" else torch.float64
    if image_ids_B is None:
        image_ids_B = torch.arange(len(image), device=image.device)
    # Groups are numbered by where their id first stands in order: no shape depends on the data.
    group_B = torch.searchsorted(image_ids_B.sort().values, image_ids_B)
    ones_B = torch.ones_like(image[:, 0])
    count_G = torch.zeros_like(ones_B).index_put((group_B,), ones_B, accumulate=True)
    if extra is None:
        # All items of a group have the same target, so sums over groups are enough.
        image_G, text_G = (
            torch.zeros_like(each).index_put((group_B,), each, accumulate=True) for each in (image, text)
        )
        weight_G = 1 / count_G.clamp(min=1)[:, None]
        if rows == slice(0, len(image)):
            return 2 * (image_G * text_G * weight_G).sum(dtype=exact)
        pairs = ((image, text_G), (text, image_G))
        drawn = [(own[rows] * (other * weight_G)[group_B[rows]]).sum(dtype=exact) for own, other in pairs]
        return drawn[0] + drawn[1]
    drawn = []
    for (own_Q, other_Q), own, other in zip(both_ways(extra), (image, text), (text, image), strict=True):
        assert own_Q is not None
        assert other_Q is not None
        sums = torch.zeros_like(other).index_put((group_B,), other, accumulate=True)[group_B]
        sums = sums.index_put((own_Q,), other[other_Q], accumulate=True)
        count_B = count_G[group_B].index_put((own_Q,), torch.ones_like(other[other_Q, 0]), accumulate=True)
        drawn.append((own[rows] * (sums[rows] / count_B[rows, None])).sum(dtype=exact))
    return drawn[0] + drawn[1]


def both_ways(extra: Extra | None) -> tuple[tuple[Tensor | None, Tensor | None], tuple[Tensor | None, Tensor | None]]:
    """Return the extra positives as seen from the images, then from the texts."""
    image_Q, text_Q = extra or (None, None)
    return (image_Q, text_Q), (text_Q, image_Q)


def ignored_pairs_correction(image: Tensor, text: Tensor, ignored: Extra, rows: slice, temperature: Tensor) -> Tensor:
    """Return the change of InfoNCE when listed pairs leave its denominators; differentiable.

    `1 / 2B sum_i [ log sum_{j not ignored} exp(s_ij / t) - log sum_j exp(s_ij / t) ]`, both directions together: added
    to InfoNCE over all pairs (`standard`, however it was computed) it gives InfoNCE without those. Only the K items
    that have a listed pair are looked at, in memory of O(K B).

    Args:
        image: (B, D) unit rows.
        text: (B, D) unit rows.
        ignored: positions of the pairs; none of them shares its image with its text's image.
        rows: of the batch, those that count.
        temperature: InfoNCE's.

    Returns:
        A scalar, at most 0.
    """
    total = image.new_zeros(())
    for (own_Q, other_Q), own, other in zip(both_ways(ignored), (image, text), (text, image), strict=True):
        assert own_Q is not None
        assert other_Q is not None
        inside_Q = (own_Q >= rows.start) & (own_Q < rows.stop)
        item_K, place_Q = own_Q[inside_Q].unique(return_inverse=True)
        logits_KB = own[item_K] @ other.T / temperature
        left_KB = torch.zeros_like(logits_KB, dtype=torch.bool)
        left_KB[place_Q, other_Q[inside_Q]] = True
        kept_K = logits_KB.masked_fill(left_KB, -torch.inf).logsumexp(1)
        total = total + (kept_K - logits_KB.logsumexp(1)).sum()
    return total / (2 * len(image))
