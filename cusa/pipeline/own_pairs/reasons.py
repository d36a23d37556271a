"""Why a pair is doubtful, by name and in words."""

from collections.abc import Mapping

import numpy as np

from cusa.pipeline.own_pairs.planted import WrongPairs


def reasons(wrong: WrongPairs, faults: Mapping[int, list[str]]) -> list[list[str]]:
    """Return the names of what speaks against each pair.

    Args:
        wrong: the evidence.
        faults: caption row -> the faults of the caption and its picture.
    """
    against_MF = wrong.against()
    named: list[list[str]] = [[] for _ in against_MF]
    for row, column in zip(*np.nonzero(against_MF), strict=True):
        named[row].append(wrong.names[column])
    for caption, names in faults.items():
        named[caption] += [name for name in names if name not in named[caption]]
    return named
