"""One tar and its mark: every member and every row of the tables, by Python's own tarfile and hashlib."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.shard.tar import Unit, read_mark, usable_captions, write


def _jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


def _unit(folder: Path, records: list[ImageRecord], plan: str = "p", **config: Any) -> Unit:
    unit = Unit(folder, 7, ShardConfig(**config), plan)
    store.make_folder(unit.rows.parent)
    unit.rows.write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return unit


def _records(folder: Path) -> list[ImageRecord]:
    (folder / "a.bin").write_bytes(b"xxx" + _jpeg(40, 30) + b"behind")
    (folder / "bad.jpg").write_bytes(_jpeg(40, 30)[:-400])
    (folder / "c.jpg").write_bytes(_jpeg(20, 60))
    captions = (CaptionRecord("11", "  One.  "), CaptionRecord("", "..."), CaptionRecord("13", "three", 5, "human"))
    length = len(_jpeg(40, 30))
    return [
        ImageRecord("d/a", "val", folder / "a.bin", "A", captions, "cat", "query", offset=3, length=length),
        ImageRecord("d/b", "val", folder / "bad.jpg", "B", captions[:2]),
        ImageRecord("d/c", "val", folder / "c.jpg", "C", (CaptionRecord("", "!"),)),
        ImageRecord("d/e", "val", folder / "c.jpg", "E", (), "dog"),
        ImageRecord("d/t", "val", None, "T", (CaptionRecord("", "text alone"),)),
    ]


def test_write__every_member_and_every_row(tmp_path: Path) -> None:
    unit = _unit(tmp_path, _records(tmp_path))
    assert write(unit) == 3
    with tarfile.open(unit.tar) as archive:
        members = {one.name: (one.offset_data, archive.extractfile(one).read()) for one in archive}  # type: ignore[union-attr]
    assert list(members) == ["d/a.jpg", "d/a.json", "d/e.jpg", "d/e.json", "d/t.json"]
    pictures = {"d/a": _jpeg(40, 30), "d/e": _jpeg(20, 60), "d/t": b""}
    done, sizes = read_mark(unit), {"d/a": (40, 30), "d/e": (20, 60), "d/t": (0, 0)}
    about = {"d/a": ("A", "cat", "query"), "d/e": ("E", "dog", ""), "d/t": ("T", "", "")}
    assert done.samples.to_pylist() == [
        {
            "key": key,
            "shard": "00007.tar",
            "image_offset": members[f"{key}.jpg"][0] if picture else 0,
            "image_bytes": len(picture),
            "ext": "jpg" if picture else "",
            "width": sizes[key][0],
            "height": sizes[key][1],
            "sha256": hashlib.sha256(picture).hexdigest(),
            "source": about[key][0],
            "label": about[key][1],
            "role": about[key][2],
        }
        for key, picture in pictures.items()
    ]
    for key, picture in pictures.items():
        if picture:
            assert members[f"{key}.jpg"][1] == picture
    assert done.captions.to_pylist() == [
        {"caption_key": "d/a#0", "key": "d/a", "position": 0, "caption_id": "11", "text": "One.", "source": ""},
        {"caption_key": "d/a#5", "key": "d/a", "position": 5, "caption_id": "13", "text": "three", "source": "human"},
        {"caption_key": "d/t#0", "key": "d/t", "position": 0, "caption_id": "", "text": "text alone", "source": ""},
    ]
    described = json.loads(members["d/a.json"][1])
    assert described["captions"][0]["text"] == "One."
    assert (described["label"], described["width"], described["height"]) == ("cat", 40, 30)
    lost = [
        tuple(row[name] for name in ("key", "source", "kind", "reason", "detail")) for row in done.drops.to_pylist()
    ]
    assert lost[0] == ("d/a#1", "A", "caption", "empty-caption", "'...', id none")
    assert [row[:4] for row in lost[1:4]] == [
        ("d/b", "B", "image", "truncated"),
        ("d/b#1", "B", "caption", "empty-caption"),
        ("d/b#0", "B", "caption", "truncated"),
    ]
    assert lost[4:] == [
        ("d/c", "C", "image", "no-captions", "1 caption, none usable"),
        ("d/c#0", "C", "caption", "empty-caption", "'!', id none"),
    ]
    assert (done.plan, done.shard, done.bytes) == ("p", "00007.tar", unit.tar.stat().st_size)
    assert done.sha256 == hashlib.sha256(unit.tar.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["nothing", "plan", "tar gone", "tar cut", "tar flipped", "mark gone", "mark cut"])
def test_write__a_finished_unit_is_believed_only_as_it_was_written(tmp_path: Path, change: str) -> None:
    records = _records(tmp_path)
    unit = _unit(tmp_path, records)
    write(unit)
    whole, mark = unit.tar.read_bytes(), unit.mark.read_bytes()
    unit.rows.write_text("")  # to be written again it would be empty
    if change == "plan":
        unit = Unit(unit.folder, unit.number, unit.config, "another")
    elif change.startswith("tar"):
        flipped = whole[:700] + bytes([whole[700] ^ 1]) + whole[701:]
        unit.tar.unlink() if change == "tar gone" else unit.tar.write_bytes(flipped if "flip" in change else whole[:-1])
    elif change.startswith("mark"):
        unit.mark.unlink() if change == "mark gone" else unit.mark.write_bytes(mark[: len(mark) // 2])
    assert write(unit) == (3 if change == "nothing" else 0)
    assert unit.tar.is_file() == (change == "nothing")
    if change != "nothing":
        unit = _unit(tmp_path, records, unit.plan)
        unit.mark.unlink()
        assert write(unit) == 3
        assert unit.tar.read_bytes() == whole


def test_write__nothing_kept_is_finished_without_a_tar(tmp_path: Path) -> None:
    unit = _unit(tmp_path, _records(tmp_path)[1:2])
    assert write(unit) == 0
    assert not unit.tar.exists()
    unit.rows.unlink()  # not needed any more
    assert write(unit) == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a", True), (" 7 ", True), ("...", False), ("", False), ("\n\t", False), ("犬", True), ("é!", True), ("&", True)],
)
def test_usable_captions__are_those_of_which_something_is_left(text: str, kept: bool) -> None:
    record = ImageRecord("d/a", "val", None, "A", (CaptionRecord("4", text, None, "alt text"),))
    rows, drops = usable_captions(record)
    if kept:
        about = {"caption_key": "d/a#0", "key": "d/a", "position": 0, "caption_id": "4", "source": "alt text"}
        assert rows == [{**about, "text": text.strip()}]
        assert drops == []
    else:
        assert rows == []
        assert [drop.detail for drop in drops] == [f"{text!r}, id 4"]
