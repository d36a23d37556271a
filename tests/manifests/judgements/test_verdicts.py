"""The journal of verdicts: a row once, whatever is repeated or killed; and the table that is made of it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError
from cusa.manifests import schemas
from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import Journal, Verdict
from cusa.manifests.storage.paths import place


def make(number: int, word: str = "match", reviewer: str = "ada", **more: object) -> Verdict:
    fields = {
        "id": f"verdict-{number:04d}",
        "image_key": "mini/a",
        "caption_key": f"mini/b#{number}",
        "verdict": word,
        "reviewer": reviewer,
        "judged_at": datetime(2026, 11, 25, 6, 30, 0, 250_000, UTC),
    }
    return Verdict(**{**fields, **more})  # type: ignore[arg-type]


def test_append__is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.append(make(1, score=0.5, image_rank=3))
        line = (tmp_path / "verdicts.jsonl").read_text()
    assert line.endswith("\n")
    told = json.loads(line)
    assert told["judged_at"] == "2026-11-25T06:30:00.250Z"
    assert told["score"] == 0.5
    assert told["image_rank"] == 3
    assert "text_rank" not in told


def test_append__the_same_id_is_the_same_verdict(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.append(make(1))
        assert not journal.append(replace(make(1), judged_at=verdicts.now()))
        with pytest.raises(ConfigError, match="another verdict"):
            journal.append(make(1, "no match"))
    with Journal(tmp_path) as journal:
        assert not journal.append(make(1))
    assert len(verdicts.read(tmp_path)) == 1


def test_append__two_that_hold_it_see_each_other(tmp_path: Path) -> None:
    with Journal(tmp_path) as one, Journal(tmp_path) as other:
        assert one.append(make(1))
        assert not other.append(make(1))
        assert other.append(make(2, reviewer="bob"))
        assert [row.id for row in one.rows()] == ["verdict-0001", "verdict-0002"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"id": "x"}, "id"),
        ({"id": "../../../etc/passwd"}, "id"),
        ({"verdict": "maybe"}, "verdict"),
        ({"reviewer": ""}, "reviewer"),
        ({"reviewer": "a\nb"}, "reviewer"),
        ({"reviewer": "\u202eeve"}, "reviewer"),
        ({"reviewer": "x" * 81}, "reviewer"),
        ({"caption_key": ""}, "image_key"),
        ({"undoes": "verdict-0001"}, "undoes"),
        ({"verdict": "undo"}, "undoes"),
    ],
)
def test_append__refuses_what_is_no_verdict(tmp_path: Path, change: dict[str, str], key: str) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(ConfigError) as error:
            journal.append(make(1, **change))  # type: ignore[arg-type]
        assert error.value.values["key"] == key
    assert (tmp_path / "verdicts.jsonl").read_bytes() == b""


def test_append__undo_takes_back_ones_own_and_once(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(make(1))
        undo = make(2, "undo", caption_key="mini/b#1", undoes="verdict-0001")
        with pytest.raises(ConfigError, match="ada's"):
            journal.append(replace(undo, reviewer="bob"))
        with pytest.raises(ConfigError, match="another pair"):
            journal.append(replace(undo, caption_key="mini/b#9"))
        with pytest.raises(ConfigError, match="no verdict"):
            journal.append(replace(undo, undoes="verdict-0009"))
        assert journal.append(undo)
        assert not journal.append(undo)
        with pytest.raises(ConfigError, match="verdict-0002 is that of another verdict"):
            journal.append(replace(undo, undoes="verdict-0009"))
        with pytest.raises(ConfigError, match="already"):
            journal.append(replace(undo, id="verdict-0003"))
        with pytest.raises(ConfigError, match="no verdict"):
            journal.append(replace(undo, id="verdict-0003", undoes="verdict-0002"))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_journal__a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path) as journal:
        journal.append(make(1))
        first = journal.path.read_bytes()
        journal.append(make(2))
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(path.read_bytes()[: len(first) + cut])
    assert [row.id for row in verdicts.read(tmp_path)] == ["verdict-0001"]
    with Journal(tmp_path) as journal:
        assert len(journal.repaired) == cut
        assert journal.append(make(2))  # whoever asked had no answer, and asks again
    assert [row.id for row in verdicts.read(tmp_path)] == ["verdict-0001", "verdict-0002"]


def test_journal__a_lost_line_break_alone_is_mended(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(make(1))
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [row.id for row in verdicts.read(tmp_path)] == ["verdict-0001"]
    with Journal(tmp_path) as journal:
        assert not journal.repaired
        assert not journal.append(make(1))
        assert journal.append(make(2))
    assert len(verdicts.read(tmp_path)) == 2


def test_journal__a_broken_line_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(make(1))
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "verdict-0002"}\n')
    for opening in (Journal, verdicts.read):
        with pytest.raises(DataError, match="number 2"):
            opening(tmp_path)


def test_journal__cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verdicts.jsonl").mkdir()
    with pytest.raises(DataError, match=r"verdicts\.jsonl cannot be written"):
        Journal(tmp_path)
    (tmp_path / "verdicts.jsonl").rmdir()
    with Journal(tmp_path) as journal:
        journal.append(make(1))
        whole = journal.path.read_bytes()

        def full(file: int, data: bytes) -> int:
            real(file, data[:10])
            raise OSError(28, "No space left on device")

        real = os.write
        monkeypatch.setattr(verdicts.os, "write", full)
        with pytest.raises(DataError, match="No space left"):
            journal.append(make(2))
        monkeypatch.undo()
        assert journal.path.read_bytes() == whole
        assert journal.append(make(2))


_APPEND = """
import sys
from pathlib import Path
from cusa.manifests.judgements.verdicts import Journal
from tests.manifests.judgements.test_verdicts import make
with Journal(Path(sys.argv[1])) as journal:
    print("open", flush=True)
    for number in range(100_000):
        journal.append(make(number, reviewer=sys.argv[2], id=f"{sys.argv[2]}-{number:06d}"))
        print(number, flush=True)
"""


def test_journal__killed_writers_lose_and_double_nothing(tmp_path: Path) -> None:
    told: dict[str, int] = {"killed": -1, "other": -1}
    writers = {
        name: subprocess.Popen(
            [sys.executable, "-c", _APPEND, str(tmp_path), name], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for name in told
    }
    for name, writer in writers.items():
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        for _ in range(25):
            told[name] = int(writer.stdout.readline())
    for name, writer in writers.items():
        writer.kill()
        assert writer.stdout is not None
        for line in writer.stdout.read().splitlines():
            told[name] = max(told[name], int(line)) if line.isdigit() else told[name]
        writer.wait()
        writer.stdout.close()
    rows = verdicts.read(tmp_path)
    assert len({row.id for row in rows}) == len(rows)
    with Journal(tmp_path) as journal:
        assert [row.id for row in journal.rows()] == [row.id for row in rows]
    for name, last in told.items():
        numbers = [int(row.id.rpartition("-")[2]) for row in rows if row.reviewer == name]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (last + 1, last + 2)  # one may have been written and not told


def test_publish__the_table_is_the_journal(tmp_path: Path) -> None:
    assert verdicts.publish(tmp_path) is None
    rows = [make(1, score=0.5, text_rank=7, p_positive=0.25, candidates_sha256="ab"), make(2, "no match", "bob")]
    with Journal(tmp_path) as journal:
        for row in rows:
            journal.append(row)
        path = verdicts.publish(tmp_path)
        assert path == tmp_path / "verdicts.parquet"
        first = path.read_bytes()
        verdicts.publish(tmp_path)
        assert path.read_bytes() == first
        table = pq.read_table(path)
        assert table.schema.equals(schemas.VERDICTS)
        assert table["judged_at"][0].as_py() == datetime(2026, 11, 25, 6, 30, 0, 250_000)  # naive: UTC, told by name
        assert verdicts.read_table(tmp_path) == rows
        journal.append(make(3))
        verdicts.publish(tmp_path)
    assert pq.read_table(path).num_rows == 3
    (tmp_path / "verdicts.jsonl").unlink()  # a folder that came without its journal
    assert [row.id for row in verdicts.read(tmp_path)] == ["verdict-0001", "verdict-0002", "verdict-0003"]
    with Journal(tmp_path) as journal:
        assert not journal.append(make(3))
        assert journal.append(make(4))
    verdicts.publish(tmp_path)
    assert pq.read_table(path).num_rows == 4


def test_read__refuses_a_foreign_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["verdict-0001"]}), tmp_path / "verdicts.parquet")
    with pytest.raises(DataError, match="verdict"):
        verdicts.read(tmp_path)


def test_append__journal_and_its_name_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[tuple[int, int]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        stat = os.fstat(descriptor)
        durable.append((stat.st_ino, stat.st_size))

    monkeypatch.setattr(os, "fsync", note)
    with Journal(tmp_path) as journal:
        assert tmp_path.stat().st_ino in {inode for inode, _ in durable}, "a new journal's name"
        for number in range(2):
            journal.append(make(number))
            stat = journal.path.stat()
            assert durable[-1] == (stat.st_ino, stat.st_size), "all of the journal, when append returns"
    with journal.path.open("ab") as file:
        file.write(b'{"torn')
    with Journal(tmp_path):
        stat = journal.path.stat()
        assert durable[-1] == (stat.st_ino, stat.st_size), "the repair"


def test_now__is_the_time_in_utc_to_the_millisecond() -> None:
    before = datetime.now(UTC)
    moments = [verdicts.now() for _ in range(50)]
    assert all(before - timedelta(milliseconds=1) < moment <= datetime.now(UTC) for moment in moments)
    assert all(moment.microsecond % 1000 == 0 for moment in moments)
    assert {moment.utcoffset() for moment in moments} == {timedelta(0)}


@pytest.mark.parametrize("first", ["match", "no match"])
def test_read__of_two_lines_of_one_id_the_first_counts_everywhere(tmp_path: Path, first: str) -> None:
    """As journals of two machines put behind each other may have it."""
    other = {"match": "no match", "no match": "match"}[first]
    for word, folder in ((first, "one"), (other, "two")):
        (tmp_path / folder).mkdir()
        with Journal(tmp_path / folder) as journal:
            journal.append(make(1, word))
    lines = [(tmp_path / folder / verdicts.JOURNAL).read_bytes() for folder in ("one", "two")]
    (tmp_path / verdicts.JOURNAL).write_bytes(lines[0] + b"\n  \n" + lines[1])
    assert [row.verdict for row in verdicts.read(tmp_path)] == [first]
    with Journal(tmp_path) as journal:
        assert [row.verdict for row in journal.rows()] == [first]
        verdicts.publish(tmp_path)
        (tmp_path / verdicts.JOURNAL).write_bytes(lines[1] + lines[0])
    assert [row.verdict for row in verdicts.read(tmp_path)] == [first], "the table's, before the journal's"


def test_publish__writes_where_the_journal_has_more_and_nowhere_else(tmp_path: Path) -> None:
    assert verdicts.publish(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with Journal(tmp_path) as journal:
        assert verdicts.publish(tmp_path) is None
        journal.append(make(1))
        path = verdicts.publish(tmp_path)
        assert path is not None
        before = path.stat().st_ino
        assert verdicts.publish(tmp_path) == path
        assert path.stat().st_ino == before, "not written again"
        journal.append(make(2))
        verdicts.publish(tmp_path)
        assert path.stat().st_ino != before
    assert [row.id for row in verdicts.read_table(tmp_path)] == ["verdict-0001", "verdict-0002"]


def test_append__every_field_is_on_the_line_and_comes_back(tmp_path: Path) -> None:
    whole = make(
        1,
        **{"score": 0.5, "image_similarity": 0.25, "text_similarity": -0.125, "image_rank": 3, "text_rank": 4},
        **{"p_positive": 0.75, "candidates_sha256": "ab" * 32},
        reviewer="Zoë",
    )
    undo = make(2, "undo", "Zoë", caption_key=whole.caption_key, undoes=whole.id)
    with Journal(tmp_path) as journal:
        assert journal.path == tmp_path / "verdicts.jsonl"
        assert [journal.append(row) for row in (whole, undo)] == [True, True]
        assert journal.rows() == [whole, undo]
    lines = (tmp_path / "verdicts.jsonl").read_bytes().splitlines(keepends=True)
    plain = {name: value for name, value in asdict(whole).items() if value is not None}
    expected = {**plain, "judged_at": "2026-11-25T06:30:00.250Z"}
    assert lines[0] == json.dumps(expected, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    assert verdicts.read(tmp_path) == [whole, undo]
    verdicts.publish(tmp_path)
    (tmp_path / "verdicts.jsonl").unlink()
    assert verdicts.read(tmp_path) == [whole, undo]


@pytest.mark.parametrize("name", ["image_key", "caption_key", "verdict", "reviewer"])
def test_append__an_id_is_of_one_verdict_in_all_that_it_says(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path) as journal:
        journal.append(make(1))
        other = {"image_key": "mini/z", "caption_key": "mini/z#1", "verdict": "related", "reviewer": "bob"}[name]
        with pytest.raises(ConfigError, match="verdict-0001 is that of another verdict"):
            journal.append(replace(make(1), **{name: other}))
        assert not journal.append(replace(make(1), score=0.5, judged_at=verdicts.now())), "what was shown may differ"
        assert len(journal.rows()) == 1


def test_journal__a_closed_one_is_closed_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    descriptor = journal._file
    journal.close()
    other = os.open(tmp_path, os.O_RDONLY)  # as the system gives it: the lowest number that is free
    try:
        journal.close()
        os.fstat(other)
        assert other == descriptor
    finally:
        os.close(other)


def test_journal__one_that_became_shorter_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(3):
            journal.append(make(number))
        os.truncate(journal.path, 10)
        for use in (journal.rows, lambda: journal.append(make(7))):
            with pytest.raises(DataError, match="became shorter while it was open"):
                use()


def test_journal__of_a_store_is_refused() -> None:
    with pytest.raises(DataError, match="Verdicts are written on this machine; copy memory:.* here first"):
        Journal(place("memory://verdicts/train/audit"))


def test_words__of_verdicts_and_which_make_a_pair() -> None:
    assert verdicts.WORDS == ("match", "related", "no match", "duplicate", "skip")
    assert set(verdicts.POSITIVE) == {"match", "duplicate"}
    for word in verdicts.WORDS:
        make(1, word).check()
    for number in (8, 64):
        make(1, id="a-" + "Z" * (number - 2)).check()
    for bad in ("a" * 7, "a" * 65, "ab_cdefgh", "abcdefgh\n", "äbcdefgh"):
        with pytest.raises(ConfigError, match="8 to 64 letters, digits or dashes"):
            make(1, id=bad).check()
    make(1, reviewer="x" * 80).check()
    for bad in (" ada", "ada ", " "):
        with pytest.raises(ConfigError, match="1 to 80 printable letters"):
            make(1, reviewer=bad).check()
    for name in ("image_key", "caption_key"):
        with pytest.raises(ConfigError, match="needs image_key and caption_key"):
            make(1, **{name: ""}).check()
