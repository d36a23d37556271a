"""`cusa shard`: every option reaches the reader and the stage, whatever is sharded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cusa.pipeline import readers
from cusa.pipeline.config import ReadConfig, ShardConfig
from cusa.pipeline.engine import LOCAL, Engine
from cusa.pipeline.extract import carry
from cusa.pipeline.shard import stage
from cusa.workflow import download
from tests.cli import calls
from tests.cli.test_cli import cusa_here

OF_SUBSETS = {"--keys", "--sql", "--verdicts", "--max-p-wrong", "--language"}
OF_READERS = {"--images", "--dataset", "--split", "--split-name", "--column", "--train-classes"}
TARS = ("--max-images", 7, "--max-bytes", 77, "--max-pixels", 777, "--check", "decode", "--resize", 99)
CONFIG = ShardConfig(max_images=7, max_bytes=77, max_pixels=777, check="decode", resize=99, quality=55, workers=3)
REST = ("--quality", 55, "--workers", 3, "--engine", "ray", "--address", "head:1", "--append", "--force")
Calls = list[Mapping[str, Any]]


class Recorded(NamedTuple):
    read: Calls
    subset: Calls
    held_out: Calls
    sharded: Calls


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(
        calls.record(monkeypatch, readers, "read", "the reading"),
        calls.record(monkeypatch, readers, "read_subset", "the subset"),
        calls.record(monkeypatch, readers, "hold_out", "the rest"),
        calls.record(monkeypatch, stage, "run", calls.outcome("shard")),
    )


def _sharded(out: Path, reading: str, **more: Any) -> dict[str, Any]:
    every = {"config": CONFIG, "append": True, "force": True, "engine": Engine("ray", "head:1"), **more}
    return {**every, "reading": reading, "out": out, "on_event": "Console.event"}


def test_shard__every_option_of_a_reader_arrives(told: Recorded, tmp_path: Path) -> None:
    source, out = tmp_path / "t.csv", tmp_path / "work"
    printed = calls.every_option(
        *("shard", "table", source, "--out", out, "--images", tmp_path / "i", "--dataset", "mine", "--split", "val"),
        *("--split-name", "a=b=test", "--split-name", " dev =val", "--column", "id=number", "--column", "image=file"),
        *("--hold-out", "val=0.1", "--hold-out", "test=0.25", "--train-classes", "1-5"),
        *("--caption-source", "blip=synthetic", "--caption-source", "human", *TARS, *REST),
        but=OF_SUBSETS,
    )
    config = ReadConfig(
        dataset="mine",
        split="val",
        split_names={"a=b": "test", " dev ": "val"},
        id_column="number",
        image_column="file",
        caption_sources={"blip": "synthetic", "": "human"},
        train_classes="1-5",
    )
    assert told.read == [{"layout": "table", "source": source, "images": tmp_path / "i", "config": config}]
    assert told.held_out == [{"reading": "the reading", "shares": {"val": 0.1, "test": 0.25}}]
    assert told.sharded == [_sharded(out, "the rest")]
    assert printed.splitlines()[-1] == f"next: cusa extract-teachers {out} --image TEACHER --text TEACHER"
    assert not told.subset


def test_shard__without_options_as_the_configurations_say(told: Recorded, tmp_path: Path) -> None:
    calls.plain("shard", "folder", tmp_path, "--out", tmp_path / "w")
    assert told.read == [{"layout": "folder", "source": tmp_path, "images": None, "config": ReadConfig()}]
    plain = {"config": ShardConfig(), "append": False, "force": False, "engine": LOCAL}
    assert told.sharded == [_sharded(tmp_path / "w", "the reading", **plain)]
    assert not told.held_out


def test_shard__urls_are_fetched_first(told: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = calls.record(monkeypatch, download, "fetch_for_shards", calls.outcome("download"))
    table, out = tmp_path / "t.csv", tmp_path / "work"
    words = ("shard", "urls", table, "--out", out)
    printed = calls.plain(
        *(*words, "--column", "url=u", "--caption-source", "blip=synthetic", "--caption-source", "#1=human"),
        *("--engine", "ray", "--address", "head:1", "--resize", 99, "--images", tmp_path / "raw"),
    )
    both = {"blip": "synthetic", "#1": "human"}
    assert fetched == [
        {
            "table": table,
            "raw": tmp_path / "raw",
            "reading": ReadConfig(url_column="u", caption_sources=both),
            "sharding": ShardConfig(resize=99),
            "engine": Engine("ray", "head:1"),
            "on_event": "Console.event",
        }
    ]
    left = ReadConfig(url_column="u", caption_sources={"#1": "human"})
    assert told.read == [{"layout": "urls", "source": tmp_path / "raw", "images": None, "config": left}]
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["download", "shard", "next"]
    calls.plain(*words)
    assert (fetched[1]["raw"], told.read[1]["source"]) == (tmp_path / "work-raw",) * 2
    calls.plain("shard", "urls", tmp_path / "fetched", "--out", out)
    assert len(fetched) == 2, "a folder holds what was fetched"
    assert told.read[2]["source"] == tmp_path / "fetched"


def test_shard__every_option_of_a_subset_arrives(
    told: Recorded, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = calls.record(monkeypatch, readers, "refuse_own_source")
    ruled = calls.record(monkeypatch, readers, "with_source_rules", "the ruled")
    carried = calls.record(monkeypatch, carry, "run", lambda **told: [calls.outcome("extract-teachers")])
    left: list[str] = []
    asked = calls.record(monkeypatch, carry, "left_out", lambda **told: left)
    out, keys = tmp_path / "part", tmp_path / "keys.txt"
    keys.write_text("mini/3\n\n mini/1 \n")
    line = ("shard", "subset", small, "--out", out)
    printed = calls.every_option(
        *(*line, "--keys", keys, "--verdicts", "repair", "--max-p-wrong", 0.5, "--language", "en", "--language", "und"),
        *("--hold-out", "val=0.5", "--caption-source", "#1=human", *TARS, *REST),
        but=OF_READERS | {"--sql"},
    )
    subset = {"verdicts": "repair", "max_p_wrong": 0.5, "languages": ["en", "und"]}
    assert told.subset == [{"work": small, "keys": ["mini/3", "mini/1"], **subset}]
    assert [list(one.values()) for one in (kept[0], ruled[0])] == [[small, out], ["the subset", {"#1": "human"}]]
    assert told.held_out == [{"reading": "the ruled", "shares": {"val": 0.5}}]
    assert told.sharded == [_sharded(out, "the rest")]
    assert carried == [{"source": small, "work": out, "on_event": "Console.event"}]
    assert asked == [{"source": small, "work": out}]
    assert [row.partition(":")[0] for row in printed.splitlines()] == ["shard", "extract-teachers", "next"]
    assert printed.splitlines()[-1] == f"next: cusa index {out}"
    assert not told.read

    query = "select key from samples where split = 'val' order by key desc"
    left += ["eyes", "ears"]
    printed = calls.plain(*line, "--sql", query)
    assert told.subset[1] == {
        **{"work": small, "keys": ["mini/picture_0003", "mini/picture_0002"]},
        **{"verdicts": "", "max_p_wrong": None, "languages": ()},
    }
    assert "The rows of eyes, ears could not be taken along" in printed
    assert printed.splitlines()[-1] == f"next: cusa extract-teachers {out} --image TEACHER --text TEACHER"


@pytest.mark.parametrize(
    "words",
    [("--verdicts", "drop"), ("--max-p-wrong", 0), ("--language", "en"), ("--caption-source", "human")],
)
def test_shard__a_subset_of_all_says_what_is_left_out(
    told: Recorded, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    monkeypatch.setattr(readers, "with_source_rules", lambda reading, rules: reading)
    monkeypatch.setattr(carry, "run", lambda *told, **more: [])
    monkeypatch.setattr(carry, "left_out", lambda *told: [])
    out = tmp_path / "part"
    printed = calls.plain("shard", "subset", small, "--out", out, *words)
    assert told.subset[0]["keys"] is None
    assert printed.splitlines()[-1].startswith("next: cusa extract-teachers"), "nothing was carried along"


def test_shard__a_subset_is_named_once(told: Recorded, small: Path, tmp_path: Path) -> None:
    line = ("shard", "subset", small, "--out", tmp_path / "part")
    assert "A subset is named by --keys FILE" in calls.refused(*line)
    assert "A subset is named by --keys FILE" in calls.refused(*line, "--keys", "k.txt", "--sql", "select 1")
    done = cusa_here(*line, "--keys", tmp_path / "k.txt")
    assert (done.returncode, "k.txt does not exist" in done.stderr) == (1, True)
    assert not told.sharded


@pytest.mark.parametrize("share", ["val", "val=", "=0.1", "val=0", "val=x"])
def test_shard__a_share_that_is_none_is_refused(told: Recorded, tmp_path: Path, share: str) -> None:
    line = ("shard", "folder", tmp_path, "--out", tmp_path / "w")
    assert f"--hold-out '{share}' is not SPLIT=SHARE" in calls.refused(*line, "--hold-out", share)
    again = calls.refused(*line, "--hold-out", "val=0.1", "--hold-out", "val=0.2")
    assert "--hold-out 'val=0.2' is not SPLIT=SHARE" in again
    for name in ("eval", "=val", " =val", "eval="):
        assert f"--split-name {name!r} is not WORD=SPLIT" in calls.refused(*line, "--split-name", name)
