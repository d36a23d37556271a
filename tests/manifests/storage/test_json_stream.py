"""Reading one large JSON object: against json itself, and the end of a file without the rest."""

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
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


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
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


@settings(deadline=None)
@given(
    content=st.lists(VALUES, max_size=3) | st.dictionaries(TEXTS, VALUES | st.floats(allow_nan=False), max_size=3),
    place=st.integers(0, 40),
    sign=st.sampled_from(["", *'[]{}",:0e-. xé', "\n", "null"]),
    cut=st.integers(0, 2) | st.just(10**9),
    chunk=st.integers(1, 9),
)
def test_items__takes_what_json_takes_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, content: object, place: int, sign: str, cut: int, chunk: int
) -> None:
    """A text of which a piece was cut out and a sign put in its place: read as `json` reads it, or refused."""
    text = json.dumps(content)
    text = text[:place] + sign + text[place + cut :]
    try:
        expected = json.loads(text)
        pairs = json.JSONDecoder(object_pairs_hook=list).decode(text)
    except ValueError:
        expected = None
    path = tmp_path_factory.mktemp("json") / "one.json"
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        if not isinstance(expected, list | dict):
            with pytest.raises(DataError, match=r"one\.json is no readable JSON"):
                list(json_stream.items(path))
            return
        if isinstance(expected, dict):
            assume(len(expected) == len(pairs))  # a name that comes twice comes twice
            items = [(k, one) for k, v in expected.items() for one in (v if isinstance(v, list) else [v])]
        else:
            items = [("", one) for one in expected]
        assert list(json_stream.items(path)) == items


@pytest.mark.parametrize(
    "text", ["", "  ", "5", '"a"', "null", "[1] 2", '{"a": 1}}', "{1: 2}", '{"a" 1}', "[1,]", "[1 2]"]
)
def test_items__a_top_that_is_none_or_goes_on_behind_its_end(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"one\.json is no readable JSON"):
        list(json_stream.items(path))


def test_items__a_list_at_the_top_has_no_name_and_comes_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(' [ 1, [2, 3], {"a": [4]} ] \n')
    assert list(json_stream.items(path)) == [("", 1), ("", [2, 3]), ("", {"a": [4]})]
    path.write_text("[1, 2, x]")
    given = json_stream.items(path)
    assert [next(given), next(given)] == [("", 1), ("", 2)], "before the break is seen"
    path.write_text("[]")
    assert list(json_stream.items(path)) == []


def test_items__what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist\. Check the path"):
        list(json_stream.items(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"is a folder, not a JSON file"):
        list(json_stream.items(tmp_path))


def test_last_text__within_the_last_kilobytes_whatever_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    for number in range(4):  # the cut falls within a letter of two bytes, or beside it
        path.write_text('{"images": "' + "é" * 3000 + "x" * number + '", "dataset": "coco"}', encoding="utf-8")
        assert json_stream.last_text(path, "dataset") == "coco"
    for size in (4000, 5000):
        path.write_text(json.dumps({"dataset": "x" * size}))
        assert json_stream.last_text(path, "dataset") == ("x" * size if size < 4096 else "")
