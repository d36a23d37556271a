"""A ledger says whether a stage must run again, and why."""

from pathlib import Path

import pytest

from cusa.manifests import ledger


@pytest.fixture
def book(tmp_path: Path) -> Path:
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


def test_why_not_current__unchanged_is_current(book: Path) -> None:
    assert ledger.why_not_current(book, inputs={"data": "d1"}, parameters={"k": [1, 2]}) is None


def test_why_not_current__names_what_changed(book: Path) -> None:
    def why(inputs: dict[str, str], parameters: dict[str, object]) -> str | None:
        return ledger.why_not_current(book, inputs=inputs, parameters=parameters)

    assert why({"data": "d2"}, {"k": [1, 2]}) == "data changed"
    assert why({"data": "d1", "more": "m"}, {"k": [1, 2]}) == "more changed"
    assert why({"data": "d1"}, {"k": [1, 3]}) == "k was [1, 2] and is now [1, 3]"
    assert why({"data": "d1"}, {}) == "k was [1, 2] and is now None"
    (book.parent / "out.bin").write_bytes(b"1234")
    assert why({"data": "d1"}, {"k": [1, 2]}) == "out.bin has 4 bytes instead of 5"
    (book.parent / "out.bin").unlink()
    assert why({"data": "d1"}, {"k": [1, 2]}) == "out.bin is missing"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stage": 1, "other": 2}'])
def test_read__a_broken_ledger_counts_as_none(book: Path, text: str) -> None:
    book.write_text(text)
    assert ledger.read(book) is None
    assert ledger.why_not_current(book, inputs={}, parameters={}) == "never finished"


def test_peak_memory__is_plausible() -> None:
    assert 10 << 20 < ledger.peak_memory_bytes() < 1 << 40
