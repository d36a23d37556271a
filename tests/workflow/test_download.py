"""Bringing a data set: the command that comes next is one that `cusa shard` or `cusa eval` takes."""

from pathlib import Path

import pytest

from cusa.manifests import datasets
from cusa.pipeline import readers
from cusa.workflow import download


@pytest.mark.parametrize("name", ["scenes", *datasets.names()])
def test_next_command__names_a_layout_that_shard_knows_or_what_eval_takes(name: str) -> None:
    program, command, *words = download.next_command(name, Path("raw") / name).split()
    assert program == "cusa"
    if command == "shard":
        assert words[0] in readers.READERS
        assert words[1].startswith(f"raw/{name}")
        assert words[2:] == ["--out", f"work/{name}"]
    else:
        assert name in ("sts", "cxc", "eccv-caption")
        assert words[-2:] == ["--data", f"raw/{name}"]
