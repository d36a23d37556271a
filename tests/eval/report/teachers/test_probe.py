"""The card of a probed teacher: every kind with its figures, words escaped, broken files named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cusa.errors import DataError
from cusa.eval.report.teachers import probe
from cusa.manifests import pages, schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.eval.report.test_stage import Tags
from tests.worlds import make_work


def _kind(title: str, share: float) -> dict[str, Any]:
    return {
        "title": title, "edits": 50, "nearer": 45, "share": share, "interval": [78.6, 95.7],
        "edit_similarity": 0.91, "sibling_similarity": 0.7,
    }  # fmt: skip


def _row(edited: str, similarity: float, nearer: bool = True) -> dict[str, Any]:
    return {
        "kind": "colour", "caption_key": "a#0", "caption": "A red <b>bus</b>", "edited": edited,
        "edit_similarity": similarity, "sibling_similarity": 0.6, "sibling": "A bus & a street", "nearer": nearer,
    }  # fmt: skip


def test_gather__a_card_a_teacher_with_the_edit_furthest_ahead(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("test",)), "test")
    assert probe.gather(split) == []
    kinds = {"colour": _kind("another colour", 90.0), "swap": {"title": "swapped", "edits": 0, "nearer": 0}}
    store.write_json(split.folder / "probe/words.json", {"teacher": "words", "split": "test", "kinds": kinds})
    store.write_json(split.folder / "probe/words.ledger.json", {})
    rows = [_row("A green bus", 0.8), _row("A blue <i>bus</i>", 0.95), _row("A pink bus", 0.99, nearer=False)]
    store.write_table(split.folder / "probe/words.parquet", pa.Table.from_pylist(rows, schema=schemas.PROBE))
    (card,) = probe.gather(split)
    assert [figure.value for figure in card.figures] == ["90 %"], "a kind without edits has no figure"
    assert [example.edited for example in card.examples] == ["A blue <i>bus</i>"]
    html = pages.render("eval/report/teachers/probe.html.j2", report={"probes": [card]})
    assert "<b>bus" not in html
    assert "<i>bus" not in html
    text = Tags(html).text
    for words in ("A red <b>bus</b>", "A bus & a street", "another colour", "79 to 96 %; 45 of 50"):
        assert words in text


def test_gather__a_broken_file_is_named(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, splits=("test",)), "test")
    store.write_json(split.folder / "probe/words.json", {"teacher": "words"})
    with pytest.raises(DataError, match=r"words\.json is not what"):
        probe.gather(split)
