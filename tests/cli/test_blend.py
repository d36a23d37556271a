"""`cusa blend`: every option reaches the request, and every point is shown with its numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from cusa.workflow import blend as blends
from cusa.workflow.blend import BlendRequest
from tests.cli import calls

POINTS = [
    {"alpha": 0.0, "values": [300.04, 50.0], "frontier": True},
    {"alpha": 0.25, "values": [310.0, 49.96], "frontier": True},
    {"alpha": 1.0, "values": [305.0, 10.0], "frontier": False},
]
RESULT: dict[str, Any] = {"points": POINTS, "measures": [{"title": "new"}, {"title": "old"}], "chosen": {"point": 1}}


def _blended(out: Path, result: dict[str, Any]) -> blends.Blended:
    return blends.Blended(calls.outcome("blend", out), result, Path("a work"))


def test_blend__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "blend.html").touch()
    done = calls.record(monkeypatch, blends, "run", lambda **told: _blended(out, RESULT))
    printed = calls.every_option(
        *("blend", "base", "run", "--out", out, "--grid", "0,1", "--data", tmp_path / "w", "--split", "val"),
        *("--guard", "a:b", "--guard", "c", "--choose", "best", "--set", "top=3", "--trust", "mine:Mean", "--force"),
    )
    request = BlendRequest(
        base="base",
        run="run",
        out=out,
        data=tmp_path / "w",
        split="val",
        guards=["a:b", "c"],
        grid="0,1",
        choose="best",
        settings=["top=3"],
        trust=["mine:Mean"],
        force=True,
    )
    assert done == [{"request": request, "callbacks": calls.CALLBACKS}]
    assert printed.splitlines()[1:] == [
        "",
        "alpha  new    old",
        "0      300.0  50.0  frontier",
        "0.25   310.0  50.0  frontier, chosen",
        "1      305.0  10.0",
        f"open: {out}/blend.html",
        f"next: cusa eval {out} --data 'a work'",
    ]


def test_blend__without_options_as_a_request_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {**RESULT, "chosen": None}
    done = calls.record(monkeypatch, blends, "run", lambda **told: _blended(tmp_path, nothing))
    printed = calls.plain("blend", "base", "run", "--out", tmp_path)
    assert done[0]["request"] == BlendRequest("base", "run", tmp_path)
    assert "next:" not in printed
    assert "chosen" not in printed
    assert json.loads(calls.plain("blend", "base", "run", "--out", tmp_path, "--json")) == nothing
