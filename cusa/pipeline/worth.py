"""What a verdict on a candidate is worth: how much it would change what is believed of the pair."""

import numpy as np

from cusa.manifests import settled
from cusa.manifests.samples import Split
from cusa.manifests.settled import DISPUTED
from cusa.pipeline.audit_summary import among
from cusa.pipeline.candidates import Candidates


def worth(p_positive: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return by how much a verdict lowers the expected squared error of a pair's soft label: p (1 - p).

    A pair believed to match with probability p, labelled p, is wrong by p (1 - p) in the mean square; after a verdict
    by nothing. So a pair of 0.5 is worth most, one that is as good as sure next to nothing, a judged one nothing.

    Args:
        p_positive: (C,) probabilities; not a number where there is none.
        judged: (C,) whether people settled the pair.

    Returns:
        (C,); not a number where nothing is known.
    """
    return np.where(judged, 0, p_positive * (1 - p_positive)).astype(p_positive.dtype)


def already_judged(split: Split, candidates: Candidates) -> np.ndarray:
    """Tell for each candidate whether people settled it; disputed and skipped ones they did not."""
    found = settled.judged(split)
    words = {one.verdict for one in found.settled} - {DISPUTED}
    rows = settled.judged_rows(split, found, *words)
    return among(split, candidates, rows[:, 0], rows[:, 1])
