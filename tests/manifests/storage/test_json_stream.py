"""Reading one large JSON object: against json itself, and the end of a file without the rest."""

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning

from cusa.errors import DataError
from cusa.manifests.storage import json_stream

TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
with warnings.catch_warnings(action="ignore", category=NonInteractiveExampleWarning):
    TEXTS.example()  # builds the table of characters once; in a fresh clone that alone takes more than a second


@given(
    content=st.dictionaries(st.text("abc_", max_size=4), VALUES, max_size=4),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
)
def test_the_last_text_is_the_last_member_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object], indent: int | None, ascii: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "one.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    last = list(content.items())[-1:]
    for name in {*content, "dataset"}:
        expected = last[0][1] if last and last[0][0] == name and isinstance(last[0][1], str) else ""
        assert json_stream.last_text(path, name) == expected


@pytest.mark.parametrize(
    "content",
    [
        '{"images": [], "info": {"dataset": "coco"}}',
        '[{"dataset": "coco"}]',
        '{"raw": "{\\"dataset\\": \\"coco\\"}"}',
        '{"dataset": "coco"',
        '{"dataset": "co\\qco"}',
        '{"dataset": 5}',
        "",
    ],
)
def test_what_only_looks_like_the_last_member_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(content)
    assert json_stream.last_text(path, "dataset") == ""


def test_the_end_of_a_long_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"images": [' + "é" * 100_000 + '], "dataset" : "coco" }\n', encoding="utf-8")
    assert json_stream.last_text(path, "dataset") == "coco"
    assert json_stream.last_text(tmp_path / "none.json", "dataset") == ""


@given(content=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_items_are_what_json_reads(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("json") / "one.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    expected = [(k, one) for k, v in content.items() for one in (v if isinstance(v, list) else [v])]
    assert list(json_stream.items(path)) == expected


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"images": [1, 2')
    with pytest.raises(DataError, match=r"one\.json is no readable JSON"):
        list(json_stream.items(path))


def test_items__a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    content = {"images": [{"a": "ü"}, 2], "dataset": "mine"}
    (tmp_path / "one.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8-sig"))
    expected = [("images", {"a": "ü"}), ("images", 2), ("dataset", "mine")]
    assert list(json_stream.items(tmp_path / "one.json")) == expected
    assert json_stream.last_text(tmp_path / "one.json", "dataset") == "mine"


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5000, "{", '"\\x"', "\udcff"])
def test_items__what_python_cannot_read_is_a_named_error(tmp_path: Path, value: str) -> None:
    text = f'{{"images": [{{"a": 1}}, {{"b": {value}}}]}}'
    (tmp_path / "one.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"one\.json is no readable JSON"):
        list(json_stream.items(tmp_path / "one.json"))


NUMBERS = [0, -1, 1234567, 1.5, -2.25e-12, 6.02e23, 1e300, 10**30, True, False, None]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 16])
def test_items__whatever_the_window_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "one.json"
    content = {"a": NUMBERS, "b": -17.5e-3, "c": {"d": NUMBERS, "é": 'x\\"y'}, "e": 12}
    for start in range(12):  # every place of the window's edge
        for text in (json.dumps(content), json.dumps(content).replace("e-", "E-"), json.dumps(content, indent=1)):
            path.write_text(" " * start + text, encoding="utf-8")
            expected = [*(("a", one) for one in NUMBERS), *list(content.items())[1:]]
            assert list(json_stream.items(path)) == expected, (start, text)


@given(content=st.dictionaries(TEXTS, VALUES | st.floats(allow_nan=False), max_size=4), chunk=st.integers(1, 9))
def test_items__are_what_json_reads_through_a_small_window(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "one.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    expected = [(k, one) for k, v in content.items() for one in (v if isinstance(v, list) else [v])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(json_stream.items(path)) == expected
