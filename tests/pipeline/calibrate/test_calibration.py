"""The calibration's file: numbers and nothing else, the decisions of scikit-learn, refused for other encoders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cusa.errors import DataError, StaleError
from cusa.manifests.samples import Split
from cusa.pipeline import audit
from cusa.pipeline.calibrate import calibration
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
