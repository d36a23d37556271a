"""The plan of a sharding: equal keys, reasons, tars cut by both bounds, and a digest that sees every word of a row."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.shard import plan as plans


def _record(key: str, path: Path | None = None, **more: Any) -> ImageRecord:
    about = {"split": "train", "path": path, "source": f"{key}.jpg", "captions": (CaptionRecord("1", "words"),)}
    return ImageRecord(key, **(about | more))


def _digest(*rows: ImageRecord | Drop) -> str:
    with plans.make(rows) as plan:
        return plan.digest


DROP = Drop("val", "k", "s", "image", "bad-row", "why")


def test_digest__sees_every_field_of_every_row(tmp_path: Path) -> None:
    """Also a record's state: size and time of the file that it names."""
    file, other = tmp_path / "a", tmp_path / "b"
    for path in (file, other):
        path.write_bytes(b"12345")
        os.utime(path, ns=(10, 10))
    captions = (CaptionRecord("1", "words"), CaptionRecord("2", "more"))
    first = _record("d/a", file, captions=captions)
    changes: list[dict[str, Any]] = [
        {"key": "d/b"},
        {"split": "val"},
        {"path": other},
        {"path": None},
        {"source": "b.jpg"},
        {"label": "x"},
        {"role": "query"},
        {"offset": 1},
        {"length": 3},
        {"array": (1, 2)},
        {"sha256": "0" * 64},
        {"column": "image"},
        {"captions": captions[:1]},
        {"captions": captions[::-1]},
        *(
            {"captions": (captions[0]._replace(**{name: value}), captions[1])}
            for name, value in (("caption_id", "9"), ("text", "other"), ("position", 4), ("source", "human"))
        ),
    ]
    digests = [_digest(first), *(_digest(first._replace(**change)) for change in changes)]
    for change in (
        {"split": "test"},
        {"key": "l"},
        {"source": "t"},
        {"kind": "caption"},
        {"reason": "missing"},
        {"detail": "x"},
    ):
        digests.append(_digest(first, Drop(**(vars(DROP) | change))))
    digests += [_digest(first, DROP), _digest(DROP, first), _digest()]
    assert len(set(digests)) == len(digests)
    assert _digest(first) == digests[0]
    for change_file in (lambda: os.utime(file, ns=(10, 11)), lambda: file.write_bytes(b"123456"), file.unlink):
        change_file()
        digests.append(_digest(first))
    assert len(set(digests)) == len(digests)


def test_add__of_equal_keys_the_second_gets_its_other_key_or_is_refused(tmp_path: Path) -> None:
    rows = [
        _record("d/a", tmp_path / "1", source="x/a"),
        _record("d/a", tmp_path / "2", source="y/a", other_key="d/y_a"),
        _record("d/a", tmp_path / "3", source="z/a"),
        _record("d/a", tmp_path / "1", source="x/a", other_key="d/x_a"),  # the very same file
        _record("d/a", tmp_path / "1", source="x/a", other_key="d/x_a", offset=5),
        _record("d/a", tmp_path / "4", source="w/a", other_key="d/y_a", captions=(CaptionRecord("", "é" * 300),) * 2),
        DROP,
        Drop("train", "", "s", "caption", "bad-row", "why"),
    ]
    with plans.make(rows) as plan:
        kept = {key: plan.find(key) for key in ("d/a", "d/y_a", "d/x_a", "d/w_a")}
        assert kept == {
            "d/a": rows[0],
            "d/y_a": rows[1]._replace(key="d/y_a", other_key=""),  # type: ignore[union-attr]
            "d/x_a": rows[4]._replace(key="d/x_a", other_key=""),  # type: ignore[union-attr]
            "d/w_a": None,
        }
        assert plan.read == Counter(image=7, caption=8)
        assert plan.splits() == ["train", "val"]
        lost = [(row["source"], row["kind"], row["reason"], row["detail"]) for row in plan.drops("train")]
        why = "duplicate-key", "x/a has it already"
        quoted = repr("é" * 200)
        assert lost == [
            ("z/a", "image", *why),
            ("z/a", "caption", "duplicate-key", "'words'"),
            ("x/a", "image", *why),
            ("x/a", "caption", "duplicate-key", "'words'"),
            ("w/a", "image", *why),
            ("w/a", "caption", "duplicate-key", quoted),
            ("w/a", "caption", "duplicate-key", quoted),
            ("s", "caption", "bad-row", "why"),
        ]
        assert list(plan.drops("val")) == [DROP.row()]
        plan.remove("d/a")
        assert plan.find("d/a") is None


@pytest.mark.parametrize(
    ("max_images", "max_bytes", "tars"),
    [
        (100, 1000, ["abcdef"]),
        (2, 1000, ["ab", "cd", "ef"]),
        (4, 1000, ["abcd", "ef"]),
        (100, 30, ["ab", "c", "def"]),  # 10 + 20 just fit, 35 exceeds alone, 0 + 10 + 5
        (100, 29, ["a", "b", "c", "def"]),
        (100, 1, ["a", "b", "c", "d", "e", "f"]),
        (1, 1000, ["a", "b", "c", "d", "e", "f"]),
    ],
)
def test_tars__are_sorted_and_end_by_images_or_bytes(max_images: int, max_bytes: int, tars: list[str]) -> None:
    sizes = dict(zip("abcdef", (10, 20, 35, 0, 10, 5), strict=True))
    rows = [_record(key, length=size, path=Path("/nowhere")) for key, size in sizes.items()]
    with plans.make([*reversed(rows), _record("other", split="val")]) as plan:
        cut = list(plan.tars("train", max_images=max_images, max_bytes=max_bytes))
        again = [digest for digest, _ in plan.tars("train", max_images=max_images, max_bytes=max_bytes)]
        none = list(plan.tars("nothing", max_images=1, max_bytes=1))
    found = ["".join(key for key in "abcdef" for row in lines if f'["{key}"' in row) for _, lines in cut]
    assert found == tars
    assert none == []
    digests = [digest for digest, _ in cut]
    assert len(set(digests)) == len(digests)
    assert digests == again


def test_tars__a_digest_is_of_the_rows_and_the_state_of_their_files(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"1")

    def digest(*rows: ImageRecord) -> str:
        with plans.make(rows) as plan:
            ((found, _),) = plan.tars("train", max_images=9, max_bytes=99)
        return found

    first = digest(_record("d/a", file))
    os.utime(file, ns=(5, 5))
    later = digest(_record("d/a", file))
    assert first != later
    assert digest(_record("d/a", file), _record("d/b", split="val")) == later, "another split's rows do not matter"
    file.unlink()
    assert digest(_record("d/a", file)) not in (first, later)


def test_equal_contents__are_those_that_stand_more_than_once() -> None:
    with plans.make([]) as plan:
        plan.contents([("x", "val", "b"), ("y", "train", "c"), ("x", "train", "d")])
        plan.contents([("z", "train", "e"), ("x", "train", "a"), ("z", "train", "f")])
        assert list(plan.equal_contents()) == [
            ("x", "train", "a"),
            ("x", "train", "d"),
            ("x", "val", "b"),
            ("z", "train", "e"),
            ("z", "train", "f"),
        ]


def test_has_sources__of_the_splits_whose_captions_name_one() -> None:
    told = (CaptionRecord("", "x"), CaptionRecord("", "y", source="human"))
    with plans.make([_record("a"), _record("b", split="val", captions=told)]) as plan:
        assert (plan.has_sources("train"), plan.has_sources("val"), plan.has_sources("test")) == (False, True, False)


def test_make__says_every_thousandth_row() -> None:
    events: list[tuple[str, int, int]] = []
    rows = (_record(f"d/{number}") for number in range(2500))
    with plans.make(rows, on_event=lambda *event: events.append(event)):
        assert events == [("read", 1000, 0), ("read", 2000, 0)]


@pytest.mark.parametrize(("number", "size", "sizes"), [(0, 3, []), (2, 3, [2]), (3, 3, [3]), (7, 3, [3, 3, 1])])
def test_chunks__hold_every_row_once(number: int, size: int, sizes: list[int]) -> None:
    made = list(plans.chunks(range(number), size))
    assert [len(chunk) for chunk in made] == sizes
    assert [row for chunk in made for row in chunk] == list(range(number))
