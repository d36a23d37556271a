"""The plan of a table of URLs: what its rows say is in it, each URL once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.urls import plan as plans
from cusa.pipeline.urls.plan import Planned


def test_plan__sources_of_captions_stay_beside_them(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "url,caption,caption_source\nhttps://a.org/1.jpg,a dog,alt text\nhttps://a.org/1.jpg,a hound,\n"
        "https://a.org/2.jpg,a cat,human\n"
    )
    (tmp_path / "out").mkdir()
    config = ReadConfig(caption_sources={"caption": "synthetic"})
    with plans.make(table, tmp_path / "out", config, rows_a_unit=10, on_event=lambda *_: None) as plan:
        plan.write(tmp_path / "out", 0)
    rows = {row["url"]: (row["captions"], row["caption_sources"]) for row in plans.read(tmp_path / "out")}
    assert rows == {
        "https://a.org/1.jpg": (["a dog", "a hound"], ["alt text", "synthetic"]),
        "https://a.org/2.jpg": (["a cat"], ["human"]),
    }


def _plan(
    table: Path, out: Path, *, rows: int = 3, first: int = 0, finished: Any = None, **config: Any
) -> list[Planned]:
    """Plan a table into a folder, what its plan has already kept where it is."""
    out.mkdir(exist_ok=True)
    with plans.make(table, out, ReadConfig(**config), rows_a_unit=rows, on_event=lambda *_: None) as plan:
        if finished is not None:
            plan.keep(plans.read(out), finished)
        return plan.write(out, first)


def _table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _places(out: Path) -> list[tuple[int, int, str, bool]]:
    return [(row["unit"], row["place"], row["url"][-1:], row["live"]) for row in plans.read(out)]


def _urls(names: str) -> list[dict[str, Any]]:
    return [{"url": f"http://a.org/{name}", "caption": f"of {name}"} for name in names]


def test_plan__each_url_once_in_the_order_of_the_table_so_many_a_unit(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.jsonl", *_urls("dabac"), *_urls("fe"))
    planned = _plan(table, tmp_path / "out")
    assert _places(tmp_path / "out") == [
        *((0, 0, "d", True), (0, 1, "a", True), (0, 2, "b", True)),
        *((1, 0, "c", True), (1, 1, "f", True), (1, 2, "e", True)),
    ]
    rows = list(plans.read(tmp_path / "out"))
    assert [row["captions"] for row in rows][:2] == [["of d"], ["of a", "of a"]]
    assert [row["key"] for row in rows] == [hashlib.sha256(row["url"].encode()).hexdigest()[:20] for row in rows]
    digests = [store.digest([[row["key"], row["url"], "", ""] for row in rows[at : at + 3]]) for at in (0, 3)]
    assert planned == [Planned(0, 0, 3, digests[0]), Planned(1, 1, 3, digests[1])]
    assert pq.ParquetFile(tmp_path / "out" / plans.PLAN).metadata.num_row_groups == 2
    assert [one.rows for one in _plan(table, tmp_path / "many", rows=4)] == [4, 2]


def test_plan__of_a_table_that_changed_what_was_there_stays_and_what_went_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _plan(_table(tmp_path / "t.jsonl", *_urls("abcdef")), out)
    planned = _plan(_table(tmp_path / "t.jsonl", *_urls("gfebh")), out, first=2, finished=[True, False])
    assert _places(out) == [
        *((0, 0, "a", False), (0, 1, "b", True), (0, 2, "c", False)),
        *((1, 1, "e", True), (1, 2, "f", True), (2, 0, "g", True), (2, 1, "h", True)),
    ]
    assert [(one.number, one.group, one.rows) for one in planned] == [(0, 0, 3), (1, 1, 2), (2, 2, 2)]
    gone = pq.read_table(out / plans.GONE).to_pylist()
    assert [(row["url"][-1], row["unit"], row["key"]) for row in gone] == [
        (name, 0, plans.key_of(f"http://a.org/{name}")) for name in "ac"
    ]
    before = planned[0].digest
    back = _plan(_table(tmp_path / "t.jsonl", *_urls("abcefgh")), out, first=3, finished=[True, True, True])
    assert back[0].digest == before, "the same bytes as ever"
    assert pq.read_table(out / plans.GONE).num_rows == 0
    assert all(live for _, _, _, live in _places(out))


def test_key_of__another_digest_is_another_row() -> None:
    url = "http://a.org/1"
    assert plans.key_of(url) == hashlib.sha256(url.encode()).hexdigest()[:20]
    keys = [plans.key_of(url, *digests) for digests in (("",), ("ab",), ("", "ab"), ("ab", "ab"))]
    assert len(set(keys)) == 4
    assert keys[1] == hashlib.sha256(f"{url}\nab\n".encode()).hexdigest()[:20]
    assert plans.without_fragment(" http://a/b#c#d ") == "http://a/b"


def test_digest_of__what_decides_the_bytes_of_a_unit() -> None:
    row = {"key": "k", "url": "u", "sha256": "s", "md5": "m", "label": "l", "captions": ["c"]}
    whole = plans.digest_of([row, row])
    for name in ("key", "url", "sha256", "md5"):
        assert plans.digest_of([row, {**row, name: "other"}]) != whole, name
    for name in ("label", "captions"):
        assert plans.digest_of([row, {**row, name: "other"}]) == whole, name
    assert plans.digest_of([{**row, "key": "a"}, row]) != plans.digest_of([row, {**row, "key": "a"}])


def test_plan__every_column_of_a_row_and_what_is_refused(tmp_path: Path) -> None:
    url = "http://a.org/1.jpg"
    rows: list[Any] = [
        {
            "url": f" {url}#x",
            "caption": ["one", "two"],
            "split": "val",
            "label": 0,
            "id": 7,
            "sha256": "AB",
            "md5": "CD",
        },
        {"url": url, "caption": "three", "split": "val", "label": "0", "id": "7", "sha256": "ab", "md5": "cd"},
        {"url": url, "caption": "four", "split": "val", "label": "1", "id": "7", "sha256": "ab", "md5": "cd"},
        {"url": url, "caption": "five", "split": "test"},
        {"url": "", "caption": "six"},
        {"caption": "seven"},
        {"url": "http://a.org/2.jpg"},
        {"url": "http://a.org/\ud800.jpg", "caption": "eight"},
        {"url": 5, "caption": "nine"},
        {"url": "http://a.org/3.jpg", "caption": [1, "ten"]},
    ]
    out = tmp_path / "out"
    _plan(_table(tmp_path / "t.jsonl", *rows), out)
    found = {row["key"]: row for row in plans.read(out)}
    first = found[plans.key_of(url, "ab", "cd")]
    names = ("url", "sha256", "md5", "split", "label", "item", "captions", "caption_sources")
    assert [first[name] for name in names] == [url, "ab", "cd", "val", "0", "7", ["one", "two", "three"], [""] * 3]
    plain = found[plans.key_of(url)]
    assert (plain["split"], plain["label"], plain["item"], plain["captions"]) == ("test", "", "", ["five"])
    assert found[plans.key_of("http://a.org/3.jpg")]["captions"] == ["ten"]
    assert found[plans.key_of("http://a.org/3.jpg")]["split"] == "train"
    assert len(found) == 3
    drops = pq.read_table(out / plans.DROPS).to_pylist()
    assert [(row["kind"], row["reason"], row["split"]) for row in drops] == [
        ("caption", "bad-row", "val"),
        *[("image", "bad-row", "train")] * 5,
        ("caption", "bad-row", "train"),
    ]
    words = ("another split, label or id", "url is empty", "no field 'url'", "no field 'caption'", "surrogates", "url")
    for row, word in zip(drops, words, strict=False):
        assert word in row["detail"], row
    assert [row["source"].rpartition(":")[2] for row in drops] == ["3", "5", "6", "7", "8", "9", "10"]


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["url", "caption"], {}, ("url", "caption")),
        (["Image_URL", "ALT"], {}, ("Image_URL", "ALT")),
        (["href", "title", "url"], {}, ("url", "title")),
        (["where", "text"], {"url_column": "where"}, ("where", "text")),
        (
            ["link", "text"],
            {"url_column": "where"},
            "has no column 'where'; name the one it has with --column url=NAME",
        ),
        (["link", "href", "text"], {}, "has no column 'url'"),
        (["link", "words"], {}, "has no column 'caption'; name the one it has with --column caption=NAME"),
        (
            ["url", "caption"],
            {"label_column": "class"},
            "has no column 'class'; name the one it has with --column label",
        ),
        (["url", "caption", "url"], {}, "has several columns 'url'"),
    ],
)
def test_columns_of__by_their_usual_names_or_as_one_says(
    tmp_path: Path, names: list[str], given: dict[str, str], expected: Any
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            plans.columns_of(table, ReadConfig(**given))
    else:
        config, form = plans.columns_of(table, ReadConfig(**given))
        assert (config.url_column, config.caption_column) == expected
        assert form is not None
        pq.write_table(pa.table({name: ["x"] for name in names}), tmp_path / "t.parquet")
        config, form = plans.columns_of(tmp_path / "t.parquet", ReadConfig(**given))
        assert ((config.url_column, config.caption_column), form) == (expected, None)


def test_columns_of__a_file_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.txt is of no known kind of table"):
        plans.columns_of(tmp_path / "t.txt", ReadConfig())
    assert list(plans.read(tmp_path)) == []


def test_plan__splits_that_are_none_refuse_the_table(tmp_path: Path) -> None:
    rows = [{**row, "split": word} for row, word in zip(_urls("abc"), ("train", "trian", "val"), strict=True)]
    with pytest.raises(DataError, match=r"names splits that are not known: 'trian' \(1 rows\)"):
        _plan(_table(tmp_path / "t.jsonl", *rows), tmp_path / "out")
    _plan(_table(tmp_path / "t.jsonl", *rows), tmp_path / "out", split_names={"trian": "test"})
    assert [row["split"] for row in plans.read(tmp_path / "out")] == ["train", "test", "val"]
