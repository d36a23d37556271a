"""Records travel through a plan of JSON whole, and drops fit into a table whatever they hold."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cusa
from cusa.manifests.records import REASONS, CaptionRecord, Drop, ImageRecord, utf8
from cusa.pipeline.config import UrlsConfig

FULL = ImageRecord(
    key="mini/a",
    split="train",
    path=Path("a/b.tar"),
    source="pictures/a.jpg",
    captions=(CaptionRecord("7", "a dog", 3), CaptionRecord("", "a cat")),
    label="dog",
    role="query",
    offset=512,
    length=99,
    array=(36, 2048),
    sha256="ab",
    column="image",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"path": None},
        {"column": ""},
        {"column": "", "sha256": ""},
        {"sha256": ""},
        {"length": None, "array": (), "label": "", "role": "", "offset": 0, "captions": ()},
    ],
)
def test_image_record__comes_back_from_json_whole(changes: dict[str, object]) -> None:
    record = FULL._replace(**changes)  # type: ignore[arg-type]
    values = json.loads(json.dumps(record.to_json()))
    back = ImageRecord.from_json(values)
    assert back == record
    assert [type(caption) for caption in back.captions] == [CaptionRecord] * len(record.captions)
    assert isinstance(back.array, tuple)


def test_to_json__a_plan_of_before_there_were_digests_and_columns_is_as_it_was() -> None:
    plain = FULL._replace(sha256="", column="", other_key="mini/other")
    assert json.loads(json.dumps(plain.to_json())) == [
        *("mini/a", "train", "a/b.tar", "pictures/a.jpg", [["7", "a dog", 3], ["", "a cat", None]]),
        *("dog", "query", 512, 99, [36, 2048]),
    ]
    assert plain._replace(sha256="ab").to_json()[10:] == ["ab"]
    assert FULL._replace(sha256="").to_json()[10:] == ["", "image"]


def test_drop__a_row_of_all_its_fields_that_any_table_holds() -> None:
    drop = Drop("train", "k", "a\udce9.jpg", "image", "missing", "no \ud800 such")
    assert drop.row() == {
        **{"split": "train", "key": "k", "source": "a?.jpg", "kind": "image", "reason": "missing"},
        "detail": "no ? such",
    }


@given(st.text(st.characters(), max_size=20))
def test_utf8__is_the_text_itself_where_it_can_be_written(text: str) -> None:
    written = utf8(text)
    written.encode()
    assert len(written) == len(text)
    assert [new for new, old in zip(written, text, strict=True) if new != old] == ["?"] * sum(
        0xD800 <= ord(sign) < 0xE000 for sign in text
    )


def test_reasons__are_words_in_one_sentence() -> None:
    for reason, words in REASONS.items():
        assert reason == reason.lower().strip()
        assert words
        assert not words.endswith(".")


def _texts(node: ast.AST) -> set[str]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def _given() -> Iterator[tuple[str, str]]:
    """Give every reason that the package's code writes down where it refuses something, with the place."""
    places = {"Refused": 0, "Failure": 0, "Drop": 4}
    for path in Path(cusa.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in places:
                reason = node.args[places[node.func.id] :][:1]
                if reason and isinstance(reason[0], ast.Constant):
                    yield str(reason[0].value), f"{path.name}:{node.lineno}"


def test_reasons__each_that_is_given_has_its_words_and_none_is_left_over() -> None:
    given = dict(_given())
    assert len(given) > 15
    assert given.keys() <= REASONS.keys(), {place for reason, place in given.items() if reason not in REASONS}
    assert {*UrlsConfig().refused_tags} <= REASONS.keys()
    said = set().union(
        *(
            _texts(ast.parse(path.read_text("utf-8")))
            for path in Path(cusa.__path__[0]).rglob("*.py")
            if path.name != "records.py"
        )
    )
    assert REASONS.keys() <= said, "a reason that nobody gives"
