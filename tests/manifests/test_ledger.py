"""A ledger says whether a stage must run again, and why."""

import hashlib
import json
import os
import platform
import resource
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import pytest

from cusa.errors import DataError
from cusa.manifests import ledger
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import place


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


def test_finish__writes_all_it_was_told_and_what_the_files_are(tmp_path: Path) -> None:
    for name, content in (("deep/b.bin", b"22"), ("a.bin", b"1"), ("known.tar", b"333")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(5, 10 ** (2 + len(content))))
    before = time.time()
    written = ledger.Clock().finish(
        tmp_path / "l.json",
        stage="shard",
        inputs={"data": "d"},
        parameters={"pair": (1, 2), "path": Path("x")},
        outputs=[tmp_path / name for name in ("known.tar", "deep/b.bin", "a.bin")],
        counts={"rows": 3},
        digests={"known.tar": "as told"},
    )
    told = json.loads((tmp_path / "l.json").read_text())
    finished = datetime.strptime(told.pop("finished"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert before - 1 <= finished.timestamp() <= time.time() + 1
    assert 0 <= told.pop("seconds") < 60
    assert told.pop("peak_memory_bytes") > 1 << 20
    versions = told.pop("versions")
    assert versions.pop("python") == platform.python_version()
    assert versions == {name: metadata.version(name) for name in versions}
    assert {"cusa", "torch", "transformers", "sentence-transformers", "pyarrow", "numpy", "pillow"} <= versions.keys()
    digest = told.pop("digest")
    assert told == {
        "stage": "shard",
        "inputs": {"data": "d"},
        "parameters": {"pair": [1, 2], "path": "x"},
        "outputs": {"a.bin": 1, "deep/b.bin": 2, "known.tar": 3},
        "counts": {"rows": 3},
        "digests": {
            "a.bin": hashlib.sha256(b"1").hexdigest(),
            "deep/b.bin": hashlib.sha256(b"22").hexdigest(),
            "known.tar": "as told",
        },
        "modified": {"a.bin": 10**3, "deep/b.bin": 10**4, "known.tar": 10**5},
    }
    assert written.digest == digest
    read = ledger.read(tmp_path / "l.json")
    assert read is not None
    assert asdict(read) == json.loads(json.dumps(asdict(written), default=str))


def test_clock__measures_from_its_making(tmp_path: Path) -> None:
    clock = ledger.Clock()
    time.sleep(0.05)
    for _ in range(2):
        done = clock.finish(tmp_path / "l.json", stage="s", inputs={}, parameters={}, outputs=[], counts={})
    assert 0.05 <= done.seconds < 30
    assert done.seconds == round(done.seconds, 3)


@pytest.mark.parametrize("name", ["inputs", "parameters", "outputs", "counts", "digests", "modified"])
def test_read__a_table_that_is_none_counts_as_no_ledger(path: Path, name: str) -> None:
    fields = json.loads(path.read_text())
    fields = {key: value for key, value in fields.items() if key != "digest"}
    path.write_text(json.dumps(fields))
    assert ledger.read(path) is not None
    path.write_text(json.dumps(fields | {name: []}))
    assert ledger.read(path) is None


def test_withdraw__what_is_there_and_what_is_not(path: Path) -> None:
    for _ in range(2):
        ledger.withdraw(path)
        assert ledger.read(path) is None
        assert not path.exists()


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a was 1 and is now 2"),
        ({"x": {"b": {"c": 1, "d": 1}}}, {"x": {"b": {"c": 1, "d": 2}}}, "x.b.d was 1 and is now 2"),
        ({"x": {"b": 1}}, {"x": [1]}, "x was {'b': 1} and is now [1]"),
        ({"x": [1]}, {"x": {"b": 1}}, "x was [1] and is now {'b': 1}"),
        ({"x": "1"}, {"x": 1}, "x was '1' and is now 1"),
        ({"x": 1}, MappingProxyType({"x": 2}), "x was 1 and is now 2"),
        ({"x": {"b": 1}}, {"x": {"b": 1, "new": 0}}, "x.new was None and is now 0"),
        ({"x": {}}, {}, "x was {} and is now None"),
        ({"x": [1, {"y": 2}]}, {"x": (1, {"y": 2})}, None),
    ],
)
def test_why_not_current__the_first_setting_by_name_with_both_values(
    tmp_path: Path, before: dict[str, object], now: dict[str, object], why: str | None
) -> None:
    clock = ledger.Clock()
    clock.finish(tmp_path / "l.json", stage="s", inputs={}, parameters=before, outputs=[], counts={})
    assert ledger.why_not_current(ledger.read(tmp_path / "l.json"), tmp_path, inputs={}, parameters=now) == why


def test_why_not_current__the_first_input_by_name(path: Path) -> None:
    written = ledger.read(path)
    assert (
        ledger.why_not_current(written, path.parent, inputs={"z": "1", "b": "2"}, parameters={"k": [1, 2]})
        == "b changed"
    )


def test_output_digest__is_recorded_or_read_and_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, real = path.parent / "out.bin", store.sha256_file
    reads: list[Path] = []
    monkeypatch.setattr(store, "sha256_file", lambda file: (reads.append(file), real(file))[1])
    written = ledger.read(path)
    assert written is not None
    right = hashlib.sha256(b"12345").hexdigest()

    def digest(of: ledger.Ledger | None) -> tuple[str, int]:
        reads.clear()
        return ledger.output_digest(of, path.parent, "out.bin"), len(reads)

    assert digest(written) == (right, 0)
    assert digest(None) == (right, 1), "no ledger: read"
    assert digest(None) == (right, 0), "once a state of the file"
    assert digest(replace(written, digests={"out.bin": "another"})) == ("another", 0)
    assert digest(replace(written, outputs={"out.bin": 6}, digests={"out.bin": "another"})) == (right, 0)
    assert digest(replace(written, modified={"out.bin": 6}, digests={"out.bin": "another"})) == (right, 0)
    assert digest(replace(written, digests={})) == (right, 0)
    stat = output.stat()
    output.write_bytes(b"123456")
    os.utime(output, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest(written) == (hashlib.sha256(b"123456").hexdigest(), 1), "another size"
    output.write_bytes(b"54321")
    os.utime(output, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert digest(written) == (hashlib.sha256(b"54321").hexdigest(), 1), "another time"


def test_refuse_changed_output__without_a_record_nothing_is_refused(path: Path) -> None:
    written = ledger.read(path)
    assert written is not None
    (path.parent / "out.bin").write_bytes(b"others")
    ledger.refuse_changed_output(None, path.parent, "out.bin")
    ledger.refuse_changed_output(replace(written, digests={}), path.parent, "out.bin")
    ledger.refuse_changed_output(written, path.parent, "other.bin")
    with pytest.raises(DataError, match=r"out\.bin was changed after `cusa s` wrote it \(6 bytes instead of 5\)\. "):
        ledger.refuse_changed_output(written, path.parent, "out.bin")


def test_difference__a_digest_that_nobody_recorded_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    right = hashlib.sha256(b"12345").hexdigest()
    assert ledger.difference(tmp_path / "a", 5, "") == ""
    assert ledger.difference(tmp_path / "a", 5, "0" * 64) == f"sha256 {right[:12]} instead of {'0' * 12}"
    assert ledger.difference(tmp_path / "a", 6, right) == "5 bytes instead of 6"
    assert ledger.difference(tmp_path, 5, "") == "missing"


def test_peak_memory__is_the_larger_of_this_process_and_its_children() -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    assert ledger.peak_memory_bytes() >= max(own, children)
    assert ledger.peak_memory_bytes() < 2 * max(own, children)


def test_read__a_ledger_of_before_there_were_digests(path: Path) -> None:
    fields = json.loads(path.read_text())
    for name in ("versions", "finished", "digests", "modified", "digest"):
        del fields[name]
    path.write_text(json.dumps(fields))
    written = ledger.read(path)
    assert written is not None
    assert (written.digests, written.modified, written.versions) == ({}, {}, {})
    assert ledger.why_not_current(written, path.parent, inputs={"data": "d1"}, parameters={"k": [1, 2]}) is None


def test_output_digest__of_a_store_is_that_of_the_bytes_there() -> None:
    folder = place("memory://ledgers/work")
    for content in (b"12345", b"54321"):
        (folder / "out.bin").write_bytes(content)
        assert ledger.output_digest(None, folder, "out.bin") == hashlib.sha256(content).hexdigest()
    clock = ledger.Clock()
    clock.finish(folder / "l.json", stage="s", inputs={}, parameters={}, outputs=[folder / "out.bin"], counts={})
    written = ledger.read(folder / "l.json")
    assert written is not None
    assert (dict(written.outputs), dict(written.modified)) == ({"out.bin": 5}, {})
    assert ledger.why_not_current(written, folder, inputs={}, parameters={}) is None
    ledger.withdraw(folder / "l.json")
    ledger.withdraw(folder / "l.json")
    assert ledger.read(folder / "l.json") is None
