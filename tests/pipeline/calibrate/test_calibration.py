"""The calibration's file: numbers and nothing else, the decisions of scikit-learn, refused for other encoders."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cusa.errors import DataError, StaleError
from cusa.manifests.samples import Split
from cusa.pipeline import audit
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, stamps


def test_probability__is_what_scikit_learn_predicts(out: Path) -> None:
    """The written numbers, put back into the library, give the decision that we compute without it."""
    made = calibration.read(out)
    values = np.random.default_rng(0).normal(size=(50, len(made.features)))
    model = LogisticRegression()
    model.coef_, model.intercept_ = np.array([made.coefficients]), np.array([made.intercept])
    model.classes_ = np.array([False, True])
    scaled = (values - np.array(made.means)) / np.array(made.scales)
    assert not made.products
    np.testing.assert_allclose(made.decision(values), model.decision_function(scaled), atol=1e-9)


def _made(**changes: Any) -> Calibration:
    """Two features, a fit that was resampled twice, no curve."""
    fields: dict[str, Any] = {
        "teachers": {},
        "features": ("one", "two"),
        "means": (0.5, -1.0),
        "scales": (2.0, 0.5),
        "products": False,
        "coefficients": (1.5, -0.5),
        "intercept": 0.25,
        "decisions": (),
        "probabilities": (),
        "resampled": ((1.0, 0.5, -0.5), (2.0, -1.0, 1.0)),
        "unselected": (),
        "about": {},
    }
    return Calibration(**(fields | changes))


VALUES = np.array([[0.5, -1.0], [2.5, -0.5], [-3.5, 0.0]])
SCALED = [(0.0, 0.0), (1.0, 1.0), (-2.0, 2.0)]


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_score__every_number_written_out() -> None:
    made = _made(unselected=(0.5, -2.0))
    decisions = [1.5 * one - 0.5 * two + 0.25 for one, two in SCALED]
    scored = made.score(VALUES)
    np.testing.assert_allclose(made.decision(VALUES), decisions)
    np.testing.assert_allclose(made.probability(VALUES), [_logistic(d) for d in decisions])
    np.testing.assert_allclose(scored.probability, [_logistic(d) for d in decisions])
    np.testing.assert_allclose(
        scored.resampled,
        [
            sum(_logistic(1.0 * one + 0.5 * two - 0.5) for one, two in SCALED),
            sum(_logistic(2.0 * one - 1.0 * two + 1.0) for one, two in SCALED),
        ],
    )
    assert scored.at_least == pytest.approx(sum(_logistic(0.5 * d - 2.0) for d in decisions))
    assert _made().score(VALUES).at_least == pytest.approx(sum(_logistic(d) for d in decisions))


def test_score__products_a_curve_and_nothing_to_score() -> None:
    knots, heights = (-3.0, 0.0, 2.0), (0.1, 0.4, 0.9)
    made = _made(
        products=True,
        coefficients=(1, 2, 3, 4, 5),
        resampled=((1, 0, 0, 0, 0, 0),),
        decisions=knots,
        probabilities=heights,
    )
    decisions = [one + 2 * two + 3 * one * one + 4 * one * two + 5 * two * two + 0.25 for one, two in SCALED]
    scored = made.score(VALUES)
    np.testing.assert_allclose(scored.probability, np.interp(decisions, knots, heights))
    np.testing.assert_allclose(scored.resampled, [np.interp([0, 1, -2], knots, heights).sum()])
    none = made.score(np.empty((0, 2)))
    assert (none.probability.tolist(), none.at_least, none.resampled.tolist()) == ([], 0.0, [0.0])
    alone = _made(resampled=()).score(VALUES)
    assert alone.resampled.tolist() == []
    assert len(alone.probability) == 3
    assert _made(intercept=1e6, scales=(1e-9, 1e-9)).probability(VALUES).tolist() == pytest.approx(
        [1, 1, 0], abs=1e-200
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"products": True, "coefficients": (1.0, 2.0, 3.0, 4.0, 5.0), "resampled": ((1.0,) * 6,)},
        {"decisions": (0.0, 0.0, 1.0), "probabilities": (0.0, 0.5, 1.0)},
        {"unselected": (0.5, -2.0), "about": {"fitted": {"pairs": 3}}, "teachers": {"text": {"teacher": "t"}}},
    ],
)
def test_read__gives_back_what_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = _made(**changes)
    calibration.write(tmp_path / "calibration.json", made)
    assert calibration.read(tmp_path / "calibration.json") == made


@pytest.mark.parametrize(
    "broken",
    [
        {"scales": (2.0, 0.0)},
        {"scales": (2.0, -1.0)},
        {"scales": (2.0,)},
        {"means": (0.5, float("nan"))},
        {"means": (0.5, -1.0, 0.0)},
        {"coefficients": (1.5, -0.5, 0.0, 0.0, 0.0)},
        {"products": True},
        {"decisions": (0.0, 1.0)},
        {"decisions": (0.0, 1.0), "probabilities": (0.5,)},
        {"decisions": (1.0, 0.0), "probabilities": (0.1, 0.2)},
        {"decisions": (0.0, 1.0), "probabilities": (0.2, 0.1)},
        {"decisions": (0.0, 1.0), "probabilities": (-0.1, 0.1)},
        {"decisions": (0.0, 1.0), "probabilities": (0.1, 1.1)},
        {"resampled": ((1.0, 0.5),)},
        {"resampled": ((1.0, 0.5, float("inf")),)},
        {"unselected": (1.0,)},
        {"unselected": (1.0, 2.0, 3.0)},
    ],
)
def test_read__numbers_that_do_not_fit_together_are_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"format": calibration.FORMAT, **asdict(_made(**broken))}))
    with pytest.raises(DataError, match=r"calibration\.json is a broken calibration"):
        calibration.read(path)


def test_refuse_others__other_teachers(work: Path, out: Path) -> None:
    split = Split(work, "test")
    with pytest.raises(StaleError, match=r"the calibration has a image teacher, 'colours', the audit has none"):
        audit.run(AuditConfig(neighbours=4), split=split, calibrated=out, encoders=Encoders(image="none"))
    content = json.loads(out.read_text())
    content["teachers"]["text"]["revision"] = "2"
    out.write_text(json.dumps(content))
    with pytest.raises(
        StaleError, match=r"another text teacher: its revision is '2', here it is '1'\. Calibrate again"
    ):
        audit.run(AuditConfig(neighbours=4), split=split, calibrated=out)


@pytest.mark.parametrize("key", ["teacher", "revision", "weights_sha256", "preprocessing", "transform"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_refuse_others__whatever_makes_a_teacher_another_one(work: Path, out: Path, modality: str, key: str) -> None:
    made, split = calibration.read(out), Split(work, "test")
    teachers = stamps(split, choose(split, Encoders()))
    made.refuse_others(teachers, out)
    other = {**teachers, modality: {**teachers[modality], key: "another"}}
    with pytest.raises(StaleError, match=rf"another {modality} teacher: its {key} is .* here it is 'another'"):
        made.refuse_others(other, out)
    # A calibration that lacks it was fitted without knowing, and is refused as well.
    known = dict(made.teachers[modality])
    if known.pop(key, ""):
        old = replace(made, teachers={**made.teachers, modality: known})
        with pytest.raises(StaleError, match=rf"its {key} is ''"):
            old.refuse_others(teachers, out)


@pytest.mark.parametrize(
    "broken",
    [
        "nothing",
        "[]",
        '{"format": "another"}',
        '{"format": "cusa calibration 1"}',
        '{"format": "cusa calibration 2"}',
        {"resampled": [[1.0]]},
        {"unselected": [1.0]},
        {"coefficients": [1.0]},
        {"decisions": [1.0, 0.0], "probabilities": [0.1, 0.2]},
        {"probabilities": [0.5, 1.5], "decisions": [0.0, 1.0]},
        {"means": "text"},
        {"more": 1},
    ],
)
def test_read__what_is_no_calibration_is_refused(out: Path, broken: Any) -> None:
    if isinstance(broken, dict):
        broken = json.dumps({**json.loads(out.read_text()), **broken})
    out.write_text(broken)
    with pytest.raises(DataError, match=r"calibration\.json is (no|a broken)"):
        calibration.read(out)
