"""`cusa calibrate`: every option reaches the fit, for the audit or for training."""

from pathlib import Path

import pytest

from cusa.manifests.stage import Outcome
from cusa.pipeline.calibrate import in_batch, stage
from cusa.pipeline.config import CalibrateConfig
from cusa.pipeline.engine import Engine, Workers
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.units import sharing
from cusa.pipeline.units.sharing import Sharing, UnitRange
from tests.cli import calls


def test_calibrate__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[Sharing] = []

    def run(**told: object) -> Outcome:
        shared.append(sharing.current())
        return calls.outcome("calibrate")

    for_audits = calls.record(monkeypatch, stage, "run", run)
    for_batches = calls.record(monkeypatch, in_batch, "run", calls.outcome("calibrate"))
    out = tmp_path / "c.json"
    words = [
        *("calibrate", small, "--out", out, "--split", "train", "--ratings", tmp_path / "r.csv", "--test", "test"),
        *("--test-ratings", tmp_path / "t.csv", "--image", "eyes", "--text", "ears", "--student", "pupil"),
        *("--pairs", 777, "--seed", 5, "--force"),
    ]
    units = ("--workers", 3, "--engine", "ray", "--address", "head:1", "--unit-range", "merge")
    printed = calls.every_option(*words, "--neighbours", 7, "--background", 9, *units, but={"--in-batch"})
    assert shared == [Sharing(Workers(3, Engine("ray", "head:1")), UnitRange("merge"))]
    (one,) = for_audits
    rated = one["test"]
    assert (rated.split.work, rated.split.name, rated.ratings) == (small, "test", tmp_path / "t.csv")
    common = {
        "split": (small, "train"),
        "out": out,
        "ratings": tmp_path / "r.csv",
        "encoders": Encoders("eyes", "ears", "pupil"),
        "force": True,
    }
    config = CalibrateConfig(neighbours=7, pairs=777, background=9, seed=5)
    assert one == {**common, "config": config, "test": rated, "on_event": "Console.event"}
    assert printed.splitlines()[-1] == f"next: cusa audit {small} --calibration {out}"
    assert not for_batches
    assert "next:" not in calls.plain(*words, "--unit-range", "0/2")
    for_audits.pop()
    printed = calls.plain(*words, "--in-batch")
    (other,) = for_batches
    assert (other["test"].split.name, other["test"].ratings) == ("test", tmp_path / "t.csv")
    assert other == {**common, "config": CalibrateConfig(pairs=777, seed=5), "test": other["test"]}
    assert len(for_audits) == 1
    assert printed.splitlines()[-1] == (
        f"next: cusa train RECIPE --data {small} --out RUN --set loss.soft_labels=calibrated "
        f"--set loss.calibration={out}"
    )


def test_calibrate__without_options_it_fits_on_val_and_tests_on_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = calls.record(monkeypatch, stage, "run", calls.outcome())
    calls.plain("calibrate", small, "--out", tmp_path / "c.json")
    assert done == [
        {
            "config": CalibrateConfig(),
            "split": (small, "val"),
            "out": tmp_path / "c.json",
            "ratings": None,
            "test": None,
            "encoders": Encoders(),
            "force": False,
            "on_event": "Console.event",
        }
    ]


@pytest.mark.parametrize("option", ["--neighbours", "--background"])
def test_calibrate__what_random_pairs_do_not_have_is_refused(small: Path, tmp_path: Path, option: str) -> None:
    said = calls.refused("calibrate", small, "--out", tmp_path / "c.json", "--in-batch", option, 7)
    assert f"--in-batch does not read {option}. Leave out one or the other." in said
    for shared in (("--workers", 2), ("--engine", "ray"), ("--address", "auto"), ("--unit-range", "0/2")):
        said = calls.refused("calibrate", small, "--out", tmp_path / "c.json", "--in-batch", *shared)
        assert f"--in-batch does not read {shared[0]}." in said
    said = calls.refused("calibrate", small, "--out", tmp_path / "c.json", "--test", "val")
    assert "--test val is the split that is fitted on" in said
