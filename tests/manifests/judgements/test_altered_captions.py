"""SugarCrepe's and RoCOCO's files in their official layouts, and files that are none."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import DataError
from cusa.manifests.judgements.altered_captions import KINDS, TITLES, AlteredCaptions, Entry, recognise
from cusa.manifests.samples import CocoIds, Split
from tests.worlds import make_work

SUGARCREPE = {
    "0": {"filename": "000000000006.jpg", "caption": "a red wall, seen", "negative_caption": "a green wall, seen"},
    "7": {"filename": "000000999999.jpg", "caption": "elsewhere", "negative_caption": "nowhere"},
}
ROCOCO = [
    {"image": "val2014/COCO_val2014_000000000006.jpg", "caption": [f"true {n}" for n in range(5)] + ["false"] * 5},
    {"image": "val2014/COCO_val2014_000000000007.jpg", "caption": [f"true {n}" for n in range(6)] + ["false"] * 5},
    {"image": "val2014/COCO_val2014_000000000008.jpg", "caption": ["true"] * 5},
]


def write(folder: Path, **files: Any) -> Path:
    """Write files of these kinds; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in files.items():
        (folder / f"{kind}.json").write_text(json.dumps(content))
    return folder


def test_entries__of_sugarcrepe_are_one_true_and_one_altered_caption(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", swap_att=SUGARCREPE, add_obj={})
    assert recognise(folder) == "sugarcrepe"
    entries = AlteredCaptions(folder, "sugarcrepe").entries
    assert [tuple(one) for one in entries] == [
        ("swap_att", 6, ("a red wall, seen",), ("a green wall, seen",)),
        ("swap_att", 999999, ("elsewhere",), ("nowhere",)),
    ]


def test_entries__of_rococo_have_the_altered_captions_behind_the_true_ones(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", danger=ROCOCO)
    assert recognise(folder) == "rococo"
    entries = AlteredCaptions(folder, "rococo").entries
    assert [(one.coco_id, len(one.true), len(one.false)) for one in entries] == [(6, 5, 5), (7, 6, 5), (8, 5, 0)]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("swap_att", []),
        ("swap_att", {"0": {"filename": "a.jpg", "caption": "a", "negative_caption": "b"}}),
        ("swap_att", {"0": {"filename": "000000000006.jpg", "caption": "a"}}),
        ("swap_att", {"0": "a"}),
        ("danger", {}),
        ("danger", [{"image": "x.jpg", "caption": []}]),
        ("danger", [{"image": "000000000006.jpg", "caption": ["a", 1]}]),
        ("danger", [7]),
    ],
)
def test_entries__a_broken_file_is_named(tmp_path: Path, kind: str, content: Any) -> None:
    folder = write(tmp_path / "x", **{kind: content})
    whose = recognise(folder)
    assert whose is not None
    with pytest.raises(DataError, match=rf"{kind}.json .*Restore"):
        _ = AlteredCaptions(folder, whose).entries


def test_recognise__nothing_else(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    assert {kind for kinds in KINDS.values() for kind in kinds} == set(TITLES)


def test_located__entries_whose_image_the_split_has_by_its_row(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=3, captions=1, splits=("test",)), "test")
    split.coco_ids = CocoIds([999999, -1, 6], [-1] * 3)
    captions = AlteredCaptions(write(tmp_path / "s", swap_att=SUGARCREPE, add_obj={"x": SUGARCREPE["0"]}), "sugarcrepe")
    first = Entry("add_obj", 6, ("a red wall, seen",), ("a green wall, seen",))
    assert captions.located(split) == [
        *((2, first), (2, first._replace(kind="swap_att"))),
        (0, Entry("swap_att", 999999, ("elsewhere",), ("nowhere",))),
    ]
    split.coco_ids = CocoIds([-1, -1, 8], [-1] * 3)
    assert captions.located(split) == []


def test_files__of_its_maker_s_kinds_in_their_order_with_their_digests(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", swap_att=SUGARCREPE, danger=ROCOCO, add_att={}, other={})
    captions = AlteredCaptions(folder, "sugarcrepe")
    assert list(captions.files.items()) == [(kind, folder / f"{kind}.json") for kind in ("add_att", "swap_att")]
    assert captions.digests() == {
        f"{kind}.json": hashlib.sha256((folder / f"{kind}.json").read_bytes()).hexdigest()
        for kind in ("add_att", "swap_att")
    }
    assert list(AlteredCaptions(folder, "rococo").files) == ["danger"]
    assert recognise(folder) == "sugarcrepe"


def test_entries__which_captions_of_rococo_are_true(tmp_path: Path) -> None:
    every = [
        {"image": "COCO_val2014_000000000006.jpg", "caption": [f"c{n}" for n in range(size)]} for size in range(13)
    ]
    entries = AlteredCaptions(write(tmp_path / "r", danger=every), "rococo").entries
    for size, entry in enumerate(entries):
        true = {10: 5, 11: 6}.get(size, size)
        assert entry == Entry(
            "danger", 6, tuple(f"c{n}" for n in range(true)), tuple(f"c{n}" for n in range(true, size))
        )
