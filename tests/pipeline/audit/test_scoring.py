"""Scoring: whole splits as plain loops sum them, large ones as deep as it is worth, and the rest is told."""

from pathlib import Path

import numpy as np
import pytest

from cusa.manifests.samples import Split
from cusa.pipeline.audit import scoring
from cusa.pipeline.audit.scoring import PairScorer
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.calibrate.calibration import Calibration
from cusa.pipeline.calibrate.normal_scores import NormalScores
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


def _p_of(opened: Neighbourhoods, split: Split, image: int, intercept: float = -2.0) -> dict[int, float]:
    """Return the probability of every caption of another image, by the formula itself."""
    assert opened.texts is not None
    rows = opened.texts.rows.astype(float)
    own = np.flatnonzero(split.caption_owner == image)
    out = {}
    for caption in np.flatnonzero(split.caption_owner != image).tolist():
        best = max(float(rows[caption] @ rows[other]) for other in own)
        out[caption] = float(1 / (1 + np.exp(-(1.5 * (best - 0.5) / 0.1 + intercept))))
    return out


@pytest.mark.parametrize(
    ("floor", "rows", "neighbours"),
    [(0.0, 10**6, 17), (0.2, 10**6, None), (0.5, 10**6, None), (0.99, 10**6, None), (0.0, 30 * 40, None), (0.0, 1, 2)],
)
def test_likely__every_figure_of_a_large_split_by_plain_loops(
    split: Split,
    opened: Neighbourhoods,
    monkeypatch: pytest.MonkeyPatch,
    floor: float,
    rows: int,
    neighbours: int | None,
) -> None:
    """Rings on a sample of images, some of them scored whole, and what that makes of all pairs."""
    for name, value in {"_RINGS": (2, 4, 8, 16, 32), "_SAMPLED": 9, "_WHOLE_IMAGES": 4, "_CAPTIONS_A_BLOCK": 7}.items():
        monkeypatch.setattr(scoring, name, value)
    monkeypatch.setattr(scoring, "_WHOLE_PAIRS", split.num_captions * 5)
    config = AuditConfig(neighbours=17, floor=floor, whole=0, rows=rows, seed=3)
    scorer, candidates = _scored(split, opened, config, _model(unselected=(0.8, -1.0)))
    likely = scorer.likely(candidates)
    assert likely is not None

    every = {image: _p_of(opened, split, image) for image in range(30)}
    sampled = np.random.default_rng(3).permutation(30)[:9].tolist()
    rings = [2, 4, 8, 16, 17]
    means, kept = [], []
    for place, ring in enumerate(rings):
        new = []
        for image in sampled:
            near = set(opened.finder.captions_near(image, ring).tolist())
            before = set(opened.finder.captions_near(image, rings[place - 1]).tolist()) if place else set()
            new += [every[image][caption] for caption in near - before]
        means.append(sum(new) / max(len(new), 1))
        kept.append(sum(p >= floor for p in new) / 9)
    last = 0
    while last < 4 and means[last + 1] >= floor and sum(kept[: last + 2]) <= rows / 30:
        last += 1
    assert likely["neighbours"] == rings[last] == scorer.depth.neighbours
    assert neighbours in (None, rings[last])
    assert likely["beyond"] == pytest.approx(means[min(last + 1, 4)], abs=1e-5)
    near = {image: set(opened.finder.captions_near(image, rings[last]).tolist()) for image in range(30)}
    outside = [sum(p for c, p in every[image].items() if c not in near[image]) for image in sampled[:5]]
    inside = [p for image in range(30) for c, p in every[image].items() if c in near[image]]
    total = sum(inside) + 30 * np.mean(outside)
    unselected = sum(1 / (1 + np.exp(-(0.8 * np.log(p / (1 - p)) - 1.0))) for p in inside)
    least = unselected / sum(inside) * total
    resampled = []
    for intercept in (-2.2, -2.0, -1.8):
        ps = [_p_of(opened, split, image, intercept) for image in range(30)]
        resampled.append(sum(p for image in range(30) for c, p in ps[image].items() if c in near[image]))
    of_sample = 30 * np.std(outside) / np.sqrt(5) / total
    spread = np.exp(1.96 * np.sqrt(np.std(np.log(resampled)) ** 2 + of_sample**2))
    written = [p for p in inside if p >= floor]
    assert likely["total"] == pytest.approx(total, rel=1e-4)
    assert likely["at_least"] == pytest.approx(least, rel=1e-4)
    assert likely["interval"] == pytest.approx([least / spread, total * spread], rel=1e-3)
    assert likely["written"] == pytest.approx(sum(written), rel=1e-4)
    assert likely["outside"] == pytest.approx(1 - sum(written) / total, abs=1e-4)
    assert (likely["scored"], likely["deepest"], likely["floor"]) == ("neighbourhoods", 17, floor)
    edges = [floor, *(edge for edge in (0.1, 0.3, 0.5, 0.7, 0.9) if edge > floor), 1.0]
    assert likely["histogram"] == [
        {
            "from": low,
            "to": high,
            "pairs": sum(low <= p < high for p in written),
            "matches": pytest.approx(sum(p for p in written if low <= p < high), rel=1e-4),
        }
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    pairs = {(i, c) for i in range(30) for c, p in every[i].items() if c in near[i] and p >= floor}
    assert set(zip(candidates.image.tolist(), candidates.caption.tolist(), strict=True)) == pairs
    for image, caption, p in zip(candidates.image, candidates.caption, candidates.p_positive, strict=True):
        assert p == pytest.approx(every[image][caption], abs=1e-4)


def test_likely__without_resampled_fits_and_with_everything_scored_there_is_no_spread(
    split: Split, opened: Neighbourhoods
) -> None:
    for resampled in ((), ((1.5, -2.0),)):
        scorer, candidates = _scored(split, opened, AuditConfig(neighbours=4, floor=0.0), _model(resampled=resampled))
        likely = scorer.likely(candidates)
        assert likely is not None
        assert likely["interval"] == pytest.approx([likely["total"]] * 2)
        assert (likely["outside"], likely["beyond"]) == (pytest.approx(0, abs=1e-6), None)


@pytest.mark.parametrize(("whole", "scored"), [(30 * 150, "whole"), (30 * 150 - 1, "neighbourhoods")])
def test_likely__a_split_of_just_so_many_pairs_is_scored_whole(
    split: Split, opened: Neighbourhoods, whole: int, scored: str
) -> None:
    scorer = PairScorer(split, opened, _model(), AuditConfig(neighbours=4, whole=whole))
    assert scorer.depth.whole == (scored == "whole")


def test_find__a_calibration_of_normal_scores_sees_where_a_pair_lies_among_the_splits_own(
    split: Split, opened: Neighbourhoods
) -> None:
    changes = {"normal_scores": True, "means": (0.0,), "scales": (1.0,)}
    _, candidates = _scored(split, opened, AuditConfig(neighbours=4, floor=0.0), _model(**changes))
    features = opened.features(split, ("text_similarity",))
    normal = NormalScores.of_split(features, split.caption_owner, split.num_images)
    pairs = zip(candidates.image, candidates.caption, strict=True)
    values = [features.matrix(int(image), np.array([caption]))[0] for image, caption in pairs]
    expected = 1 / (1 + np.exp(-(1.5 * normal(np.array(values))[:, 0] - 2.0)))
    np.testing.assert_allclose(candidates.p_positive, expected, rtol=1e-5)
