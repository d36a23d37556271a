"""`cusa audit`: every option reaches the stage that it is of."""

from pathlib import Path

import pytest

from cusa.manifests.judgements import verdicts
from cusa.pipeline.audit import export_eccv
from cusa.pipeline.audit import stage as auditing
from cusa.pipeline.config import AuditConfig, PairsConfig
from cusa.pipeline.engine import Engine, Workers
from cusa.pipeline.own_pairs import issues
from cusa.pipeline.own_pairs import stage as own_pairs
from cusa.pipeline.pairs.neighbourhoods import Encoders
from cusa.pipeline.units import sharing
from cusa.pipeline.units.sharing import Sharing, UnitRange
from tests.cli import calls

NUMBERS = {
    "--neighbours": 7,
    "--floor": 0.25,
    "--rows": 77,
    "--per-image": 8,
    "--minimum-score": 0.125,
    "--near-image": 0.75,
    "--near-caption": 0.5,
    "--sample": 9,
    "--gallery": 11,
}


def test_audit__every_option_arrives(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/gallery.html").touch()
    shared: list[Sharing] = []

    def run(**more: object) -> object:
        shared.append(sharing.current())
        return calls.outcome("audit", tmp_path / "audit")

    done = calls.record(monkeypatch, auditing, "run", run)
    words = [word for option, value in NUMBERS.items() for word in (option, value)]
    printed = calls.every_option(
        *("audit", small, "--split", "val", "--split", "test", "--image", "eyes", "--text", "ears"),
        *("--student", "pupil", "--truth", tmp_path / "t.parquet", "--ratings", tmp_path / "r.csv", "--no-leaks"),
        *("--calibration", tmp_path / "c.json", "--workers", 3, "--engine", "ray", "--address", "head:1"),
        *("--unit-range", "merge", "--force", *words),
        but={"--pairs", "--pictures", "--export-eccv"},
    )
    assert shared == [Sharing(Workers(3, Engine("ray", "head:1")), UnitRange("merge"))] * 2
    numbers = {option[2:].replace("-", "_"): value for option, value in NUMBERS.items()}
    assert done == [
        {
            "config": AuditConfig.model_validate({**numbers, "leaks": False}),
            "split": (small, name),
            "encoders": Encoders("eyes", "ears", "pupil"),
            "truth": tmp_path / "t.parquet",
            "calibrated": tmp_path / "c.json",
            "ratings": tmp_path / "r.csv",
            "force": True,
            "on_event": "Console.event",
        }
        for name in ("val", "test")
    ]
    assert f"open: {tmp_path}/audit/gallery.html\nnext: cusa review {small}\n" in printed


def test_audit__without_options_it_does_what_its_configuration_says(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = calls.record(monkeypatch, auditing, "run", calls.outcome())
    calls.plain("audit", small)
    assert [one["split"] for one in done] == [(small, name) for name in ("train", "val", "test")]
    assert [one["config"] for one in done] == [AuditConfig()] * 3
    assert [(one["encoders"], one["calibrated"], one["force"]) for one in done] == [(Encoders(), None, False)] * 3
    assert (done[0]["truth"], done[0]["ratings"]) == (None, None)
    done.clear()
    assert "next:" not in calls.plain("audit", small, "--calibration", "none", "--unit-range", "0/2")
    assert (done[0]["config"], done[0]["calibrated"]) == (AuditConfig(shipped=False), None)


def test_audit__pairs_are_two_other_stages(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = calls.record(monkeypatch, issues, "run", calls.outcome("issues"))
    doubted = calls.record(monkeypatch, own_pairs, "run", calls.outcome("pairs"))
    words = ("--split", "val", "--gallery", 5, "--no-pictures", "--image", "eyes", "--text", "ears", "--force")
    printed = calls.plain("audit", small, "--pairs", *words)
    common = {"config": PairsConfig(gallery=5, pictures=False), "split": (small, "val"), "force": True}
    assert looked == [{**common, "on_event": "Console.event"}]
    assert doubted == [{**common, "encoders": Encoders("eyes", "ears"), "on_event": "Console.event"}]
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["issues", "pairs"]
    calls.plain("audit", small, "--pairs")
    assert [one["config"] for one in (*looked[1:], *doubted[1:])] == [PairsConfig()] * 6
    assert not any(one["force"] for one in (*looked[1:], *doubted[1:]))


def test_audit__verdicts_as_a_ground_truth_of_one_split_or_of_several(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"val", "test"}
    monkeypatch.setattr(verdicts, "read", lambda folder: ["a verdict"] if folder.parent.name in said else [])
    files = (tmp_path / "to/a.json", tmp_path / "to/b.json")
    made = export_eccv.ExportedMatches(files, 1, 2, 1234, "numbers", ("a note",))
    done = calls.record(monkeypatch, export_eccv, "run", made)
    printed = calls.plain("audit", small, "--export-eccv", tmp_path / "to")
    assert done == [{"split": (small, name), "out": tmp_path / "to" / name} for name in ("val", "test")]
    assert f"audit: {tmp_path}/to: 1 image and 2 captions as queries, 1,234 true pairs, ids are numbers\n" in printed
    assert "  a note\n" in printed
    done.clear()
    calls.plain("audit", small, "--export-eccv", tmp_path / "to", "--split", "test")
    assert done == [{"split": (small, "test"), "out": tmp_path / "to"}]


@pytest.mark.parametrize(
    ("mode", "given", "unread"),
    [
        (("--pairs",), ("--floor", "0.005"), "--floor"),
        (("--pairs",), ("--workers", "2", "--student", "pupil"), "--student, --workers"),
        (("--pairs",), ("--no-leaks",), "--leaks"),
        (("--export-eccv", "to"), ("--pairs", "--gallery", "3"), "--pairs, --gallery"),
    ],
)
def test_audit__options_that_a_mode_does_not_read_are_refused(
    small: Path, mode: tuple[str, ...], given: tuple[str, ...], unread: str
) -> None:
    """Also one that is given at its default: the user expects something of it."""
    assert f"{mode[0]} does not read {unread}. Leave out one or the other." in calls.refused(
        "audit", small, *mode, *given
    )
