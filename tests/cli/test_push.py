"""`cusa push`: every option reaches the push, and what was sent is said."""

import json
from pathlib import Path

import pytest

from cusa.pipeline.publish import push
from tests.cli import calls


def test_push__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = push.Pushed("me/it", "model", {"b.bin": 3 << 20, "a.md": 1234}, "")
    done = calls.record(monkeypatch, push, "push", lambda **told: pushed)
    printed = calls.every_option(
        *("push", tmp_path, "--to", "me/it", "--card", "--private", "--dry-run", "--message", "first"),
    )
    told = {"card_only": True, "private": True, "dry_run": True, "message": "first"}
    assert done == [{"folder": tmp_path, "repository": "me/it", **told}]
    assert printed.splitlines() == [
        "file   bytes",
        "a.md   1,234",
        "b.bin  3,145,728",
        "push: 2 files, 3.0 MiB: model me/it; nothing was sent",
    ]
    pushed = push.Pushed("me/it", "model", {"a.md": 1}, "https://there/commit/1")
    assert calls.plain("push", tmp_path, "--to", "me/it") == "push: 1 files, 0.0 MiB: https://there/commit/1\n"
    told = {"card_only": False, "private": False, "dry_run": False, "message": ""}
    assert done[1] == {"folder": tmp_path, "repository": "me/it", **told}
    assert json.loads(calls.plain("push", tmp_path, "--to", "me/it", "--json"))["commit"] == "https://there/commit/1"
