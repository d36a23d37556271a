"""What speaks against a pair, by name: evidence below halfway, then the faults that are not named already."""

import numpy as np

from cusa.pipeline.own_pairs.planted import WrongPairs
from cusa.pipeline.own_pairs.probability import WrongWay
from cusa.pipeline.own_pairs.reasons import reasons


def _wrong(alone: WrongWay | None) -> WrongPairs:
    evidence = np.array([[0.1, 0.9], [0.4, 0.5], [np.nan, 0.2], [0.5, 0.6]])
    return WrongPairs(evidence, ("first", "second"), np.zeros(4), alone)


def test_reasons__are_the_evidence_below_the_middle_and_the_faults() -> None:
    way = WrongWay(0.1, np.zeros(4), np.array([0.4, 0.6]), 0.9)
    named = reasons(_wrong(way), {0: ["markup", "first"], 3: ["blank", "dark"]})
    assert named == [["first", "markup"], ["second"], ["second"], ["blank", "dark"]]


def test_reasons__without_a_fit_only_faults_speak() -> None:
    assert reasons(_wrong(None), {2: ["too-short"]}) == [[], [], ["too-short"], []]
    assert not _wrong(None).against().any()
