"""`cusa languages`: every option reaches the stage."""

from pathlib import Path

import pytest

from cusa.pipeline import languages
from cusa.pipeline.config import LanguagesConfig
from tests.cli import calls


def test_languages__every_option_arrives(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, languages, "run", calls.outcome())
    printed = calls.every_option(
        *("languages", small, "--split", "val", "--only", " en, de,", "--minimum", 0.25, "--workers", 3, "--force")
    )
    config = LanguagesConfig(only=("en", "de"), minimum=0.25, workers=3)
    assert done == [{"config": config, "split": (small, "val"), "force": True, "on_event": "Console.event"}]
    assert printed.splitlines()[-1] == f"next: cusa shard subset {small} --out PART --language en"
    calls.plain("languages", small)
    assert [(one["split"][1], one["config"], one["force"]) for one in done[1:]] == [
        (name, LanguagesConfig(), False) for name in ("train", "val", "test")
    ]
