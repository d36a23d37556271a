"""The page of the first ten minutes: every command on it, one after the other, on tiny pictures with tiny encoders."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cusa import cli
from tests.conftest import ROOT
from tests.worlds import write_karpathy, write_sentence_model

SMALL = ["train.steps=6", "train.batch=8", "train.validate_every=3", "train.warmup_steps=1", "train.checkpoint_every=3"]


def _commands() -> list[list[str]]:
    """Return the arguments of every command in the page's blocks."""
    page = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("cusa ")]


def _write_pictures(folder: Path) -> None:
    import json

    source = write_karpathy(folder / "drawn", images=40, splits=("train",), captions=3)
    (folder / "mine/photos").mkdir(parents=True)
    with (folder / "mine/captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for row in json.loads(source.read_text())["images"]:
            (source.parent / row["filepath"] / row["filename"]).rename(folder / "mine/photos" / row["filename"])
            table.writerows([row["filename"], sentence["raw"]] for sentence in row["sentences"])


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_pictures(tmp_path)
    write_sentence_model(tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    stand_ins = {"benchmarks.photographs.lite:Lite0": "tests.worlds:Colours", "$MINILM": str(tmp_path / "minilm")}
    commands = _commands()
    assert len(commands) == 13
    printed = {}
    for command in commands:
        arguments = [stand_ins.get(word, word) for word in command]
        if command[0] == "train":
            arguments += [word for setting in SMALL for word in ("--set", setting)]
        if command[0] == "eval":
            arguments += ["--set", "bootstrap=10"]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, (shlex.join(arguments), result.output, result.exception)
        printed[shlex.join(command)] = result.output
    assert (tmp_path / "work/mine/train/audit/gallery.html").is_file()
    assert (tmp_path / "runs/mine/search.html").is_file()
    report = (tmp_path / "runs/mine/report.html").read_text(encoding="utf-8")
    assert "plain" in report
    assert "mine minus plain" in report
    (shown,) = (output for command, output in printed.items() if command.startswith("search") and "html" not in command)
    assert "wall, seen" in shown
    assert {split.name for split in (tmp_path / "work/mine").iterdir() if split.is_dir()} >= {"train", "val", "test"}
