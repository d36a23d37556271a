"""`cusa export`: each format's options reach what writes it, and those of others are refused."""

from pathlib import Path

import pytest

from cusa.integrations import export as tools
from cusa.pipeline import publish, readers
from cusa.pipeline.config import PublishConfig
from cusa.workflow import export as exporting
from tests.cli import calls

EVERY = {"--space", "--ensemble", "--licence", "--workers", "--split", "--image", "--text", "--limit", "--trust"}


def test_export__of_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, exporting, "export", calls.outcome("export"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").touch()
    mine = ("--space", "uni", "--ensemble", "other", "--image", "eyes", "--text", "ears", "--trust", "mine:Mean")
    printed = calls.every_option(
        *("export", "pupil", "--to", "sentence-transformers", "--out", out, *mine, "--force"),
        but=EVERY - {*mine},
    )
    common = {"name": "pupil", "out": out}
    assert done == [
        {
            **common,
            "to": "sentence-transformers",
            "space": "uni",
            "ensemble": "other",
            "encoders": {"image": "eyes", "text": "ears"},
            "trust": ["mine:Mean"],
            "force": True,
        }
    ]
    assert printed.splitlines()[-1] == f"open: {out}/README.md"
    calls.plain("export", "pupil", "--to", "hf", "--out", out)
    plain = {"to": "hf", "space": "cross", "ensemble": "", "encoders": {}, "trust": (), "force": False}
    assert done[1] == {**common, **plain}
    calls.plain("export", "pupil", "--to", "hf", "--out", out, "--text", "ears")
    assert done[2]["encoders"] == {"text": "ears"}


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_export__of_data(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    done = calls.record(monkeypatch, publish, "run", calls.outcome("export"))
    mine = ("--licence", "CC0", "--workers", 3)
    calls.every_option("export", small, "--to", to, "--out", tmp_path, *mine, "--force", but=EVERY - {*mine})
    common = {"work": small, "to": to, "out": tmp_path, "on_event": "Console.event"}
    assert done == [{**common, "config": PublishConfig(licence="CC0", workers=3), "force": True}]
    calls.plain("export", small, "--to", to, "--out", tmp_path)
    assert done[1] == {**common, "config": PublishConfig(), "force": False}


@pytest.mark.parametrize("to", ["atlas", "fiftyone", "label-studio"])
def test_export__for_a_viewer(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    done = calls.record(monkeypatch, tools, "export", calls.outcome("export"))
    kept = calls.record(monkeypatch, readers, "refuse_own_source")
    mine = ("--split", "val", "--split", "test", "--image", "eyes", "--text", "ears", "--limit", 7)
    calls.every_option("export", small, "--to", to, "--out", tmp_path, *mine, "--force", but=EVERY - {*mine})
    common = {"work": small, "to": to, "out": tmp_path}
    told = {"names": ["val", "test"], "image": "eyes", "text": "ears", "limit": 7, "force": True}
    assert done == [{**common, **told}]
    assert list(kept[0].values()) == [small, tmp_path]
    calls.plain("export", small, "--to", to, "--out", tmp_path)
    assert done[1] == {**common, "names": (), "image": "", "text": "", "limit": 1000, "force": False}


@pytest.mark.parametrize(
    ("formats", "options", "said"),
    [
        (("parquet", "atlas"), (("--ensemble", "x"), ("--trust", "m:C")), "--ensemble and --trust are of students"),
        (("hf", "parquet"), (("--split", "val"),), "--split is of --to atlas, fiftyone, label-studio, not of"),
        (("parquet", "webdataset"), (("--image", "x"), ("--text", "x")), "--image and --text are of students and of"),
        (("hf", "atlas"), (("--licence", "x"), ("--workers", "2")), "--licence and --workers are of --to parquet, web"),
    ],
)
def test_export__an_option_of_another_format_is_refused(
    small: Path, tmp_path: Path, formats: tuple[str, ...], options: tuple[tuple[str, ...], ...], said: str
) -> None:
    for to in formats:
        for option in options:
            assert said in calls.refused("export", small, "--to", to, "--out", tmp_path / "new", *option)
    assert not (tmp_path / "new").exists()
