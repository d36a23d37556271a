"""A ledger says whether a stage must run again, and why."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests import ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    output = tmp_path / "out.bin"
    output.write_bytes(b"12345")
    ledger.Clock().finish(
        tmp_path / "ledger.json",
        stage="s",
        inputs={"data": "d1"},
        parameters={"k": (1, 2)},
        outputs=[output],
        counts={},
    )
    return tmp_path / "ledger.json"


def test_why_not_current__unchanged_is_current(path: Path) -> None:
    assert (
        ledger.why_not_current(ledger.read(path), path.parent, inputs={"data": "d1"}, parameters={"k": [1, 2]}) is None
    )


def test_why_not_current__names_what_changed(path: Path) -> None:
    def why(inputs: dict[str, str], parameters: dict[str, object]) -> str | None:
        return ledger.why_not_current(ledger.read(path), path.parent, inputs=inputs, parameters=parameters)

    assert why({"data": "d2"}, {"k": [1, 2]}) == "data changed"
    assert why({"data": "d1", "more": "m"}, {"k": [1, 2]}) == "more changed"
    assert why({}, {"k": [1, 2]}) == "data changed", "an input that is gone is another input"
    assert why({"data": "d1"}, {"k": [1, 3]}) == "k was [1, 2] and is now [1, 3]"
    assert why({"data": "d1"}, {}) == "k was [1, 2] and is now None"
    (path.parent / "out.bin").write_bytes(b"1234")
    assert why({"data": "d1"}, {"k": [1, 2]}) == "out.bin has 4 bytes instead of 5"
    (path.parent / "out.bin").unlink()
    assert why({"data": "d1"}, {"k": [1, 2]}) == "out.bin is missing"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stage": 1, "other": 2}'])
def test_read__a_broken_ledger_counts_as_none(path: Path, text: str) -> None:
    path.write_text(text)
    assert ledger.read(path) is None
    assert ledger.why_not_current(ledger.read(path), path.parent, inputs={}, parameters={}) == "never finished"


def test_peak_memory__is_plausible() -> None:
    assert 10 << 20 < ledger.peak_memory_bytes() < 1 << 40


def test_read__an_edited_ledger_counts_as_none(path: Path) -> None:
    whole = ledger.read(path)
    assert whole is not None
    assert whole.digest
    text = path.read_text()
    for before, after in (('"stage": "s"', '"stage": "t"'), ("d1", "d2"), ('"out.bin": 5', '"out.bin": 6')):
        assert before in text
        path.write_text(text.replace(before, after))
        assert ledger.read(path) is None
    fields = {name: value for name, value in json.loads(text).items() if name != "digest"}
    path.write_text(json.dumps(fields))
    assert ledger.read(path) == replace(whole, digest=""), "as ledgers were before they had a digest"


def test_difference__says_how_a_file_differs(path: Path) -> None:
    written = ledger.read(path)
    assert written is not None
    recorded = written.outputs["out.bin"], written.digests["out.bin"]
    output = path.parent / "out.bin"
    assert ledger.difference(output, *recorded) == ""
    times = output.stat().st_atime_ns, output.stat().st_mtime_ns
    output.write_bytes(b"12346")
    os.utime(output, ns=times)  # as a failing disk changes bytes
    assert ledger.difference(output, *recorded).startswith("sha256 ")
    output.write_bytes(b"1234")
    assert ledger.difference(output, *recorded) == "4 bytes instead of 5"
    output.unlink()
    assert ledger.difference(output, *recorded) == "missing"


def test_refuse_changed__names_the_file_and_the_way_out(path: Path) -> None:
    output = path.parent / "out.bin"
    ledger.refuse_changed(path)
    output.touch()  # another time, the same bytes
    ledger.refuse_changed(path)
    output.write_bytes(b"12346")
    with pytest.raises(DataError, match=r"out\.bin was changed after `cusa s` wrote it \(sha256 .*--force"):
        ledger.refuse_changed(path)
    with pytest.raises(DataError, match="was changed"):
        ledger.refuse_changed(path, ("out.bin",))
    ledger.refuse_changed(path, ("other.bin",))
    ledger.refuse_changed(path, ())
    output.unlink()
    with pytest.raises(DataError, match="missing"):
        ledger.refuse_changed(path)
    ledger.refuse_changed(path.parent / "no.ledger.json")


@pytest.mark.parametrize("name", ["table.parquet", "page.html", "rows.npy", "shard.tar"])
def test_why_not_current__bytes_that_changed_under_the_same_size(tmp_path: Path, name: str) -> None:
    """All but tars are read where their time changed; whoever reads a tar compares what it reads."""
    output = tmp_path / name
    output.write_bytes(b"12345")
    clock = ledger.Clock()
    clock.finish(tmp_path / "l.json", stage="s", inputs={}, parameters={}, outputs=[output], counts={})
    output.write_bytes(b"12346")
    os.utime(output, ns=(0, 0))
    why = ledger.why_not_current(ledger.read(tmp_path / "l.json"), tmp_path, inputs={}, parameters={})
    assert why == (None if name == "shard.tar" else f"{name} was changed after it was written")
