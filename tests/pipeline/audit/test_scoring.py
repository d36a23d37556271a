"""Scoring: whole splits as plain loops sum them, large ones as deep as it is worth, and the rest is told."""

from pathlib import Path

import numpy as np
import pytest

from cusa.manifests.samples import Split
from cusa.pipeline.audit.scoring import PairScorer
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates, find_all, merge
from cusa.pipeline.pairs.neighbourhoods import Encoders, Neighbourhoods, choose, open_neighbourhoods
from tests.pipeline.audited import make_taught


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return Split(make_taught(tmp_path_factory.mktemp("scoring"), images=30, neighbours=20), "train")


@pytest.fixture(scope="module")
def opened(split: Split) -> Neighbourhoods:
    return open_neighbourhoods(split, choose(split, Encoders()), depth=20)


def _model(**changes: object) -> Calibration:
    """Return a calibration of one feature, the best cosine of the captions."""
    fields: dict[str, object] = {
        "teachers": {},
        "features": ("text_similarity",),
        "means": (0.5,),
        "scales": (0.1,),
        "products": False,
        "coefficients": (1.5,),
        "intercept": -2.0,
        "decisions": (),
        "probabilities": (),
        "resampled": ((1.5, -2.2), (1.5, -2.0), (1.5, -1.8)),
        "unselected": (),
        "about": {},
    }
    return Calibration(**{**fields, **changes})  # type: ignore[arg-type]


def _scored(
    split: Split, opened: Neighbourhoods, config: AuditConfig, model: Calibration | None
) -> tuple[PairScorer, Candidates]:
    scorer = PairScorer(split, opened, model, config)
    return scorer, merge(list(find_all(opened.finder, num_images=split.num_images, find=scorer.find)))


def _every(split: Split, opened: Neighbourhoods) -> np.ndarray:
    """Return the probability of every open pair by the formula itself."""
    assert opened.texts is not None
    rows, out = opened.texts.rows.astype(float), []
    for image in range(split.num_images):
        own = np.flatnonzero(split.caption_owner == image)
        for caption in np.flatnonzero(split.caption_owner != image):
            best = max(float(rows[caption] @ rows[other]) for other in own)
            out.append(1 / (1 + np.exp(-(1.5 * (best - 0.5) / 0.1 - 2.0))))
    return np.array(out)


def test_likely__a_small_split_is_scored_whole(split: Split, opened: Neighbourhoods) -> None:
    config = AuditConfig(neighbours=4, floor=0.3)
    scorer, candidates = _scored(split, opened, config, _model())
    likely, every = scorer.likely(candidates), _every(split, opened)
    assert likely is not None
    assert likely["scored"] == "whole"
    assert likely["total"] == pytest.approx(every.sum(), rel=1e-4)
    assert len(candidates.score) == (every >= 0.3).sum()
    assert likely["outside"] == pytest.approx(every[every < 0.3].sum() / every.sum(), abs=1e-4)
    assert sum(bar["pairs"] for bar in likely["histogram"]) == len(candidates.score)
    assert [bar["from"] for bar in likely["histogram"]] == [0.3, 0.5, 0.7, 0.9]
    low, high = likely["interval"]
    assert low < likely["total"] < high
    assert likely["at_least"] == pytest.approx(likely["total"])
    bounded = PairScorer(split, opened, _model(unselected=(1.0, -3.0)), config)
    found = merge(list(find_all(opened.finder, num_images=split.num_images, find=bounded.find)))
    also = bounded.likely(found)
    assert also is not None
    shifted = 1 / (1 + np.exp(-(np.log(every / (1 - every)) - 3)))
    assert also["at_least"] == pytest.approx(shifted.sum(), rel=1e-3)


def test_likely__a_large_one_is_searched_while_the_next_ring_is_worth_it(split: Split, opened: Neighbourhoods) -> None:
    every = _every(split, opened)
    depths = {}
    for floor in (0.0, 0.2, 0.9):
        config = AuditConfig(neighbours=20, floor=floor, whole=0)
        scorer, candidates = _scored(split, opened, config, _model())
        likely = scorer.likely(candidates)
        assert likely is not None
        assert likely["scored"] == "neighbourhoods"
        depths[floor] = likely["neighbours"]
        # All thirty images are in the sample, so what is outside is known and not estimated.
        assert likely["total"] == pytest.approx(every.sum(), rel=1e-4)
        assert likely["written"] == pytest.approx(candidates.p_positive.astype(float).sum(), rel=1e-6)
        assert likely["outside"] == pytest.approx(1 - likely["written"] / every.sum(), abs=1e-4)
    assert depths[0.0] == 20
    assert depths[0.9] == 10
    few = PairScorer(split, opened, _model(), AuditConfig(neighbours=20, floor=0.0, whole=0, rows=1))
    assert few.depth.neighbours == 10, "the budget of rows ends the search"


def test_find__without_a_calibration_the_neighbourhoods_are_the_candidates(
    split: Split, opened: Neighbourhoods
) -> None:
    scorer, candidates = _scored(split, opened, AuditConfig(neighbours=20), None)
    assert scorer.likely(candidates) is None
    expected = [len(opened.finder.find([image]).score) for image in range(split.num_images)]
    assert len(candidates.score) == sum(expected)
    assert np.isnan(candidates.p_positive).all()


def test_model__the_file_holds_what_the_scorer_uses(tmp_path: Path) -> None:
    calibration.write(tmp_path / "p.json", _model(unselected=(1.0, -3.0)))
    assert calibration.read(tmp_path / "p.json") == _model(unselected=(1.0, -3.0))
