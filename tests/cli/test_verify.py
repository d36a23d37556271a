"""`cusa verify`: what differs is named and is an error; what comes next follows from what the folder holds."""

import json
from pathlib import Path

import pytest

from cusa.pipeline import verify
from cusa.pipeline.verify import Finding, Verified
from tests.cli import calls
from tests.cli.test_cli import cusa_here


def test_verify__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, verify, "run", Verified(1, 3 << 19, 1234, ()))
    printed = calls.every_option("verify", tmp_path, "--workers", 3)
    assert done == [{"folder": tmp_path, "workers": 3, "on_event": "Console.event"}]
    assert printed.splitlines() == [
        f"verify: {tmp_path}: 1 file, 1.5 MiB, 1,234 samples: all as it was written",
        f"next: cusa shard LAYOUT {tmp_path} --out WORK",
    ]
    calls.plain("verify", tmp_path)
    assert done[1]["workers"] == 0


@pytest.mark.parametrize(
    ("file", "following"),
    [
        ("recipe.json", "eval {} --data WORK"),
        ("train/teachers/eyes/ledger.json", "index {}"),
        ("train/samples.parquet", "extract-teachers {} --image TEACHER --text TEACHER"),
    ],
)
def test_verify__what_a_sound_folder_is_ready_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, following: str
) -> None:
    calls.record(monkeypatch, verify, "run", Verified(0, 0, 0, ()))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert calls.plain("verify", tmp_path).splitlines()[-1] == f"next: cusa {following.format(tmp_path)}"


def test_verify__what_differs_is_an_error_in_words_and_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding("a.tar", "x.jpg", "other bytes"), Finding("b.parquet", "", "gone"))
    told = Verified(2, 0, 0, findings)
    calls.record(monkeypatch, verify, "run", lambda **more: told)
    done = cusa_here("verify", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "a.tar: x.jpg: other bytes",
        "b.parquet: gone",
        f"verify: {tmp_path}: 2 files, 0.0 MiB, 0 samples: 2 things differ",
    ]
    as_json = cusa_here("verify", tmp_path, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["findings"] == [vars(finding) for finding in findings]
    told = Verified(2, 0, 0, findings[:1])
    assert cusa_here("verify", tmp_path).stdout.endswith(": 1 thing differs\n")
