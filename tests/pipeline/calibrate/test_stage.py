"""Calibration: fitted on one split and tested on another, refused for others, its file numbers and nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from cusa.errors import DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit, calibrate
from cusa.pipeline.calibrate import calibration
from cusa.pipeline.config import AuditConfig, CalibrateConfig
from cusa.pipeline.pairs.candidates import Candidates
from cusa.pipeline.pairs.features import PairFeatures
from cusa.pipeline.pairs.neighbourhoods import Encoders, choose, open_neighbourhoods
from cusa.pipeline.pairs.ratings import RatedSplit, read_ratings
from tests.pipeline.audited import make_taught, teach
from tests.worlds import COLOURS, make_work

CONFIG = CalibrateConfig(neighbours=4, pairs=300, background=100)


def write_truth(work: Path, name: str) -> None:
    """Pair every image with every caption that names its colour, and of every fourth caption with nothing else."""
    split, colours = Split(work, name), list(COLOURS)
    start = 0 if name == "val" else 12
    rows = [
        (image, caption)
        for row, image in enumerate(split.image_keys)
        for number, (caption, text) in enumerate(zip(split.caption_keys, split.texts, strict=True))
        if split.caption_owner[number] == row or (colours[(row + start) % 4] in text and number % 4)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("calibrate"), images=12, splits=("val", "test"))
    for name in ("val", "test"):
        teach(work, split=name, image="colours", text="words")
        write_truth(work, name)
    return work


@pytest.fixture(scope="module")
def fitted(work: Path) -> str:
    """A calibration file's text, fitted once."""
    out = work / "calibration.json"
    calibrate.run(CONFIG, split=Split(work, "val"), out=out)
    return out.read_text()


@pytest.fixture
def out(fitted: str, tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(fitted)
    return path


def test_run__fits_on_one_split_and_tests_on_another(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    options: dict[str, Any] = {"split": Split(work, "val"), "test": RatedSplit(Split(work, "test")), "out": out}
    outcome = calibrate.run(CONFIG, **options)
    made = calibration.read(out)
    assert made.about["fitted"]["split"] == "val"
    assert made.about["tested"]["split"] == "test"
    assert outcome.counts["pairs"] == made.about["fitted"]["pairs"] > 100
    assert made.teachers["image"]["teacher"] == "colours"
    assert made.teachers["text"]["transform"] == "clean"
    assert any("Brier score" in note for note in outcome.notes)
    assert not calibrate.run(CONFIG, **options).fresh
    assert calibrate.run(CONFIG.model_copy(update={"seed": 1}), **options).why == "seed was 0 and is now 1"


def test_run__the_audit_ranks_by_it_and_the_table_holds_it(work: Path, out: Path) -> None:
    split = Split(work, "test")
    outcome = audit.run(AuditConfig(neighbours=4, gallery=2), split=split, calibrated=out)
    table = pq.read_table(split.folder / "audit/candidates.parquet")
    p = table["p_positive"].to_numpy()
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(p) <= 0).all(), "the best first"
    summary = audit.read_summary(split)
    expected = summary["calibration"]["expected"]
    assert expected["false_negatives"] == pytest.approx(p.sum(), rel=1e-5)
    couples = 5 * p.sum()  # every image has five captions, each of which meets the candidate
    assert expected["batch"]["false_negatives"] == pytest.approx(couples * 60 * 59 / (60 * 59), rel=1e-5)
    assert summary["calibration"]["reliability"]["pairs"] == table.num_rows
    assert list(summary["truth"]["rankings"])
    assert "p_positive" in summary["truth"]["rankings"]
    assert any("By p_positive" in note for note in outcome.notes)
    assert "by p_positive" in (split.folder / "audit/gallery.html").read_text()


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


def test_refuse_others__other_teachers_or_depth(work: Path, out: Path) -> None:
    split = Split(work, "test")
    with pytest.raises(StaleError, match=r"neighbourhoods of 4, and 3 are asked for"):
        audit.run(AuditConfig(neighbours=3), split=split, calibrated=out)
    with pytest.raises(StaleError, match=r"the calibration has a image teacher, 'colours', the audit has none"):
        audit.run(AuditConfig(neighbours=4), split=split, calibrated=out, encoders=Encoders(image="none"))
    content = json.loads(out.read_text())
    content["teachers"]["text"]["revision"] = "2"
    out.write_text(json.dumps(content))
    with pytest.raises(
        StaleError, match=r"another text teacher: its revision is '2', here it is '1'\. Calibrate again"
    ):
        audit.run(AuditConfig(neighbours=4), split=split, calibrated=out)


@pytest.mark.parametrize(
    "broken",
    [
        "nothing",
        "[]",
        '{"format": "another"}',
        '{"format": "cusa calibration 1"}',
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


def test_run__one_modality_and_too_few_judgements(work: Path, tmp_path: Path, out: Path) -> None:
    out = tmp_path / "calibration.json"
    calibrate.run(CONFIG, split=Split(work, "val"), out=out, encoders=Encoders(image="none"))
    made = calibration.read(out)
    assert set(made.teachers) == {"text"}
    assert not [name for name in made.features if name.startswith("image_") and name != "image_level"]
    small = make_taught(tmp_path / "small", images=3)
    write_truth(small, "train")
    with pytest.raises(DataError, match=r"at least 10 of each are needed"):
        calibrate.run(CalibrateConfig(neighbours=4, background=0), split=Split(small, "train"), out=out)
    (small / "train/truth.parquet").unlink()
    with pytest.raises(DataError, match="neither verdicts nor a truth"):
        calibrate.run(CONFIG, split=Split(small, "train"), out=out)


def test_read_ratings__cxc(work: Path, tmp_path: Path) -> None:
    split = Split(work, "val")
    captions = split.captions["caption_id"].to_pylist()
    number = [f"{row + 1000:012d}" for row in range(split.num_images)]
    split.image_keys = [f"coco/COCO_val2014_{each}" for each in number]
    lines = [
        f"COCO_val2014:sentid:{captions[7]},COCO_val2014_{number[0]}.jpg,4.2,c2i_intrasim",
        f"COCO_val2014:sentid:{captions[20]},COCO_val2014_{number[0]}.jpg,2.9,c2i_intrasim",
        f"COCO_val2014:sentid:{captions[0]},COCO_val2014_{number[0]}.jpg,5.0,c2i_original",
        "COCO_val2014:sentid:999999,COCO_val2014_000000000001.jpg,5.0,c2i_intrasim",
    ]
    path = tmp_path / "sits_val.csv"
    path.write_text("caption,image,agg_score,sampling_method\n" + "\n".join(lines))
    rated = read_ratings(split, tmp_path)
    assert list(zip(rated.images, rated.captions, rated.match, strict=True)) == [(0, 7, True), (0, 20, False)]
    assert (rated.unknown, rated.complete) == (1, False)
    assert "sampled" in rated.caveat
    path.write_text("caption,image,agg_score\nCOCO:sentid:1,COCO_val2014_5.jpg,9\n")
    with pytest.raises(DataError, match=r"sits_val.csv:2 is no rating .*score 9"):
        read_ratings(split, path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"sits_val.csv:2 is no rating"):
        read_ratings(split, path)
    with pytest.raises(DataError, match="does not exist"):
        read_ratings(split, tmp_path / "none.csv")


def test_features__all_finite_and_named(work: Path) -> None:
    split = Split(work, "test")
    opened = open_neighbourhoods(split, choose(split, Encoders()), depth=4)
    features = opened.features(split)
    for image in range(split.num_images):
        pairs = opened.finder.find(image)
        values = features.matrix(image, pairs)
        assert values.shape == (len(pairs.caption), len(features.names))
        assert np.isfinite(values).all()
    named = dict(zip(features.names, values.T, strict=True))
    texts = opened.texts
    assert texts is not None
    own = np.flatnonzero(split.caption_owner == image)
    cosines = texts.rows[pairs.caption] @ texts.rows[own].T
    np.testing.assert_allclose(named["text_similarity"], cosines.max(1), atol=1e-5)
    np.testing.assert_allclose(named["text_mean"], cosines.mean(1), atol=1e-5)
    for row, caption in enumerate(pairs.caption):
        family = np.flatnonzero(split.caption_owner == split.caption_owner[caption])
        others = family[family != caption]
        assert named["sibling"][row] == pytest.approx(float((texts.rows[others] @ texts.rows[caption]).max()), abs=1e-5)
        whole = float((texts.rows[family] @ texts.rows[own].T).mean())
        assert named["text_set"][row] == pytest.approx(whole, abs=1e-5)


def test_run__features_or_probabilities_that_are_no_numbers_are_refused(
    work: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = PairFeatures.matrix

    def broken(self: PairFeatures, image: int, pairs: Candidates) -> np.ndarray:
        values = matrix(self, image, pairs)
        values[:, 1] = np.nan if image == 3 else values[:, 1]
        return values

    monkeypatch.setattr(PairFeatures, "matrix", broken)
    with pytest.raises(DataError, match=rf"{Split(work, 'val').image_keys[3]} with mini/\S+ has the image_local nan"):
        calibrate.run(CONFIG, split=Split(work, "val"), out=tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    with pytest.raises(DataError, match=r"the probability nan, which cannot be ranked"):
        audit.run(AuditConfig(neighbours=4, gallery=0), split=Split(work, "test"), calibrated=out, force=True)
