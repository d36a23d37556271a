"""What a verdict on a candidate is worth: how much it would change what is believed of the pair.

Without a calibrated probability the score stands in: the likeliest first.
"""

import numpy as np

SQL = "p_positive * (1 - p_positive)"
"""The same as `worth`, of a column."""


def worth(p_positive: np.ndarray) -> np.ndarray:
    """Return by how much a verdict lowers the expected squared error of a pair's soft label: p (1 - p).

    A pair believed to match with probability p, labelled p, is wrong by p (1 - p) in the mean square; after a verdict
    by nothing. So a pair of 0.5 is worth most, one that is as good as sure next to nothing.

    Args:
        p_positive: (C,) probabilities; not a number where there is none.
    """
    return p_positive * (1 - p_positive)


def order(p_positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the candidates' places, those first whose verdict is worth most; by score where there is no probability.

    Args:
        p_positive: (C,) probabilities; not a number where there is none.
        score: (C,).
    """
    return np.lexsort((-score, np.nan_to_num(-worth(p_positive), nan=0.0)))
