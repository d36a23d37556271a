"""Shards: read back by webdataset, the same bytes each time, and every row accounted for."""

import gc
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger, schemas
from cusa.manifests.records import REASONS, CaptionRecord, Drop, ImageRecord
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.shard import stage, tar
from tests.worlds import make_work, write_karpathy


def _run(source: Path, out: Path, **options: object) -> Outcome:
    force = bool(options.pop("force", False))
    reading = readers.read("karpathy", source, source.parent)
    return shard.run(ShardConfig.model_validate({"workers": 1, **options}), reading=reading, out=out, force=force)


def _bytes(folder: Path) -> dict[str, str]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name not in ("shard.ledger.json", store.LOCK))
    return {f.relative_to(folder).as_posix(): store.sha256_file(f) for f in files}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_run__webdataset_reads_what_went_in(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw")
    _run(source, tmp_path / "work", max_images=5)
    rows = {f"mini/{Path(r['filename']).stem}": r for r in json.loads(source.read_text())["images"]}
    tars = sorted(str(p) for p in (tmp_path / "work/train").glob("*.tar"))
    assert len(tars) == 3
    seen = 0
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        row = rows[sample["__key__"]]
        original = source.parent / row["filepath"] / row["filename"]
        assert sample["jpg"] == original.read_bytes()
        described = json.loads(sample["json"])
        assert [c["text"] for c in described["captions"]] == [s["raw"] for s in row["sentences"]]
        assert described["sha256"] == hashlib.sha256(sample["jpg"]).hexdigest()
        seen += 1
    del sample
    gc.collect()
    assert seen == 12


def test_run__byte_ranges_give_every_image(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw")
    _run(source, tmp_path / "work", max_images=5)
    split = Split(tmp_path / "work", "val")
    for row, name in enumerate(split.samples["source"].to_pylist()):
        assert split.image_bytes(row) == (source.parent / name).read_bytes()
    assert [split.image_keys[i] for i in split.caption_owner] == split.captions["key"].to_pylist()


def test_run__same_inputs_same_bytes_whatever_the_processes(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw")
    _run(source, tmp_path / "one", max_images=5, workers=1)
    _run(source, tmp_path / "two", max_images=5, workers=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    with tarfile.open(tmp_path / "one/train/00000.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive} == {(0, 0, 0, "", 0o644)}


def test_run__again_is_up_to_date_until_something_changes(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw")
    work = tmp_path / "work"
    assert _run(source, work).why == "never finished"
    assert not _run(source, work).fresh
    assert _run(source, work, force=True).why == "--force"
    assert _run(source, work, max_images=4).why.startswith("max_images was")
    (source.parent / "train/picture_0001.jpg").unlink()
    outcome = _run(source, work, max_images=4)
    assert outcome.why == "images changed"
    assert outcome.counts["images_dropped"] == 1
    first = next((work / "train").glob("*.tar"))
    first.unlink()
    assert _run(source, work, max_images=4).why == f"train/{first.name} is missing"
    _run(source, work, max_images=100)
    assert len(list((work / "train").glob("*.tar"))) == 1, "tars of an older cut must not stay"


def test_run__a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_karpathy(tmp_path / "raw")
    _run(source, tmp_path / "whole", max_images=4)
    written: list[str] = []
    real = tar.write

    def dies_at_third(unit: tar.Unit) -> int:
        if len(written) == 2:
            (unit.folder / f"{store.TEMPORARY}rest.tar").write_bytes(b"half a tar")
            raise KeyboardInterrupt
        written.append(f"{unit.folder.name}/{unit.number}")
        return real(unit)

    monkeypatch.setattr(tar, "write", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        _run(source, tmp_path / "killed", max_images=4)
    with pytest.raises(DataError):
        Split(tmp_path / "killed", "test")
    touched = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("0*.tar")}
    assert len(touched) == 2
    monkeypatch.setattr(tar, "write", real)
    _run(source, tmp_path / "killed", max_images=4)
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")
    assert {p: p.stat().st_mtime_ns for p in touched} == touched, "finished tars are kept, not written again"


def _killed_before_the_ledger(source: Path, out: Path, **options: object) -> None:
    """Shard up to the last file, and die there: every tar and mark is whole, no ledger says so."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_tar_digests", _dies)
        _run(source, out, **options)
    assert not (out / stage.LEDGER).exists()
    assert list(out.rglob(f"{tar.UNITS}/*.arrow"))


def _dies(*arguments: object) -> None:
    raise KeyboardInterrupt


SETTINGS = [{"resize": 20}, {"resize": 20, "quality": 50}, {"min_side": 41}, {"max_pixels": 100}]


@pytest.mark.parametrize("options", SETTINGS)
def test_run__a_killed_run_with_other_settings_takes_none_of_its_tars(
    tmp_path: Path, options: dict[str, object]
) -> None:
    source = write_karpathy(tmp_path / "raw", images=4)
    small = source.parent / "test/picture_0008.jpg"
    Image.new("RGB", (99, 99)).save(small)
    reference = tmp_path / "whole"
    before = {"resize": 20} if "quality" in options else {}
    _killed_before_the_ledger(source, tmp_path / "killed", **before)
    if "max_pixels" in options:
        with pytest.raises(DataError, match="None of the 12 images"):
            _run(source, tmp_path / "killed", **options)
        return
    _run(source, reference, **options)
    _run(source, tmp_path / "killed", **options)
    assert _bytes(tmp_path / "killed") == _bytes(reference)
    _run(source, tmp_path / "plain", **before)
    assert _bytes(reference) != _bytes(tmp_path / "plain"), "the settings change the bytes"


DAMAGES = {
    "shorter": lambda tar: tar[:-512],
    "longer": lambda tar: tar + bytes(512),
    "a flipped byte": lambda tar: tar[:700] + bytes([tar[700] ^ 1]) + tar[701:],
    "empty": lambda tar: b"",
    "gone": lambda tar: None,
}


@pytest.mark.parametrize("what", ["tar", "mark"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_run__a_tar_or_mark_that_was_damaged_after_the_kill_is_written_again(
    tmp_path: Path, what: str, damage: str
) -> None:
    source = write_karpathy(tmp_path / "raw", images=4)
    _run(source, tmp_path / "whole")
    work = tmp_path / "killed"
    _killed_before_the_ledger(source, work)
    file = work / "train" / ("00000.tar" if what == "tar" else f"{tar.UNITS}/00000.arrow")
    content = DAMAGES[damage](file.read_bytes())
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    _run(source, work)
    assert _bytes(work) == _bytes(tmp_path / "whole")


def test_run__a_picture_that_changed_after_the_kill_is_read_again(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=4)
    work = tmp_path / "killed"
    _killed_before_the_ledger(source, work)
    picture = source.parent / "val/picture_0005.jpg"
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    _run(source, work)
    split = Split(work, "val")
    row = split.samples["source"].to_pylist().index("val/picture_0005.jpg")
    assert split.image_bytes(row) == bytes(data)


def test_run__the_order_of_the_rows_does_not_matter_and_tars_are_sorted(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=7, splits=("train",))
    reading = readers.read("karpathy", source)
    config = ShardConfig(workers=1, max_images=3)
    shard.run(config, reading=reading, out=tmp_path / "one")
    shuffled = [reading.images[number] for number in (3, 0, 6, 2, 5, 1, 4)]
    shard.run(config, reading=replace(reading, rows=shuffled), out=tmp_path / "two")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert Split(tmp_path / "two", "train").image_keys == sorted(record.key for record in shuffled)


def test_run__tars_end_by_bytes(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=6, splits=("train",))
    sizes = [file.stat().st_size for file in sorted(source.parent.rglob("*.jpg"))]
    _run(source, tmp_path / "work", max_bytes=sizes[0] + sizes[1] + sizes[2])
    expected, total = [0], 0
    for size in sizes:
        if expected[-1] and total + size > sizes[0] + sizes[1] + sizes[2]:
            expected, total = [*expected, 0], 0
        expected[-1] += 1
        total += size
    assert len(expected) > 1
    assert Split(tmp_path / "work", "train").shards["images"].to_pylist() == expected


def test_run__a_row_refused_for_another_reason_is_another_source(tmp_path: Path) -> None:
    reading = readers.read("karpathy", write_karpathy(tmp_path / "raw", images=2, splits=("train",)))
    config = ShardConfig(workers=1)
    for why, fresh in (("one", True), ("one", False), ("other", True)):
        rows = [*reading.images, Drop("train", "", "row 3", "caption", "bad-row", why)]
        assert shard.run(config, reading=replace(reading, rows=rows), out=tmp_path / "work").fresh is fresh
        assert pq.read_table(tmp_path / "work/train/drops.parquet")["detail"].to_pylist() == [why]


def test_run__only_pictures_are_copies_of_each_other(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3, splits=("train", "test"))
    shutil.copy(source.parent / "train/picture_0000.jpg", source.parent / "test/picture_0004.jpg")
    shutil.copy(source.parent / "train/picture_0000.jpg", source.parent / "train/picture_0002.jpg")
    reading = readers.read("karpathy", source)
    texts = [ImageRecord(f"mini/t{n}", "train", None, f"t{n}", (CaptionRecord("", "same"),)) for n in range(4)]
    done = shard.run(
        ShardConfig(workers=1), reading=replace(reading, rows=[*reading.images, *texts]), out=tmp_path / "w"
    )
    copies = pq.read_table(tmp_path / "w/duplicates.parquet").to_pylist()
    expected = [("test", "mini/picture_0004"), ("train", "mini/picture_0000"), ("train", "mini/picture_0002")]
    assert [(row["split"], row["key"]) for row in copies] == expected
    assert {row["sha256"] for row in copies} == {
        hashlib.sha256((source.parent / "train/picture_0000.jpg").read_bytes()).hexdigest()
    }
    assert any(note.startswith("2 images have the bytes of another one") for note in done.notes)
    assert any(note.startswith("2 images stand in more than one split") for note in done.notes)


def _picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _huge_png() -> bytes:
    """Return the first bytes of a 20,000 x 20,000 PNG: its header is all that may be read."""
    return _encoded(Image.new("1", (20_000, 20_000)), "PNG")


EXIF = Image.Exif()
EXIF[0x0112] = 6  # rotate by 90 degrees when shown

IMAGES = {
    "grey.jpg": (_encoded(_picture("L"), "JPEG"), None),
    "cmyk.jpg": (_encoded(_picture("CMYK"), "JPEG"), None),
    "palette.png": (_encoded(_picture("P"), "PNG"), None),
    "alpha.png": (_encoded(_picture("RGBA"), "PNG"), None),
    "rotated.jpg": (_encoded(_picture(), "JPEG", exif=EXIF), None),
    "web.webp": (_encoded(_picture(), "WEBP"), None),
    "png-named.jpg": (_encoded(_picture(), "PNG"), None),
    "truncated.jpg": (_encoded(_picture(), "JPEG")[:-300], "truncated"),
    "cut.png": (_encoded(_picture(), "PNG")[:-300], "truncated"),
    "text.jpg": (b"this is a text, not a picture", "not-an-image"),
    "empty.jpg": (b"", "not-an-image"),
    "huge.png": (_huge_png(), "too-large"),
    "tiny.png": (_encoded(_picture(size=(3, 40)), "PNG"), "too-small"),
    "old.bmp": (_encoded(_picture(), "BMP"), "unsupported-format"),
    "moving.gif": (_encoded(_picture("P"), "GIF"), "unsupported-format"),
    "missing.jpg": (None, "missing"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    rows = []
    for name, (data, _) in IMAGES.items():
        if data is not None:
            (folder / name).write_bytes(data)
        rows.append({"filename": name, "split": "train", "sentences": [{"raw": "one"}, {"raw": "two words"}]})
    (folder / "plain.jpg").write_bytes(_encoded(_picture(), "JPEG"))
    shutil.copy(folder / "plain.jpg", folder / "silent.jpg")
    shutil.copy(folder / "plain.jpg", folder / "half.jpg")
    rows.append({"filename": "silent.jpg", "split": "train", "sentences": []})
    rows.append({"filename": "half.jpg", "split": "train", "sentences": [{"raw": " .. "}, {"raw": "left"}]})
    (folder / "dataset_hostile.json").write_text(json.dumps({"images": rows, "dataset": "hostile"}))
    _run(folder / "dataset_hostile.json", folder / "work")
    return folder / "work"


@pytest.mark.parametrize("name", [*IMAGES, "silent.jpg"])
def test_run__each_broken_image_is_a_drop_and_each_odd_one_is_kept(hostile: Path, name: str) -> None:
    reason = IMAGES.get(name, (None, "no-captions"))[1]
    kept = pq.read_table(hostile / "train/samples.parquet").to_pylist()
    drops = pq.read_table(hostile / "train/drops.parquet").to_pylist()
    assert (name in {row["source"] for row in kept}) == (reason is None)
    mine = [drop for drop in drops if drop["source"] == name and drop["kind"] == "image"]
    assert [drop["reason"] for drop in mine] == ([reason] if reason else [])
    assert all(drop["reason"] in REASONS and drop["detail"] for drop in drops)


def test_run__an_empty_caption_is_a_drop_and_positions_stay(hostile: Path) -> None:
    captions = pq.read_table(hostile / "train/captions.parquet").to_pylist()
    half = [row for row in captions if row["key"].startswith("hostile/half")]
    assert [(row["position"], row["text"], row["caption_key"][-2:]) for row in half] == [(1, "left", "#1")]
    drops = pq.read_table(hostile / "train/drops.parquet").to_pylist()
    assert [d["key"][-2:] for d in drops if d["source"] == "half.jpg"] == ["#0"]


def test_run__rows_in_are_rows_kept_and_rows_dropped(hostile: Path) -> None:
    counts = ledger.read(hostile / "shard.ledger.json").counts  # type: ignore[union-attr]
    assert counts["images_read"] == len(IMAGES) + 2 == counts["images_kept"] + counts["images_dropped"]
    assert counts["captions_read"] == 2 * len(IMAGES) + 2 == counts["captions_kept"] + counts["captions_dropped"]


def test_run__extension_follows_the_content(hostile: Path) -> None:
    rows = {row["source"]: row for row in pq.read_table(hostile / "train/samples.parquet").to_pylist()}
    assert rows["png-named.jpg"]["ext"] == "png"
    assert (rows["rotated.jpg"]["width"], rows["rotated.jpg"]["height"]) == (40, 30)


HOSTILE_TEXT = st.text(min_size=1, max_size=200) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "'; drop table captions; --",
        "\u202eright to left",
        "🐶" * 50,
        "x" * 100_000,
        "a\0b\x1b[31m",
    ]
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE_TEXT, min_size=1, max_size=4), name=st.text(min_size=1, max_size=60))
def test_run__any_caption_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jpg").write_bytes(_encoded(_picture(), "JPEG"))
    rows = [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": t} for t in [*texts, "a good one"]]},
        {"filename": name, "split": "train", "sentences": [{"raw": "of a file that is not there"}]},
    ]
    (folder / "d.json").write_text(json.dumps({"images": rows, "dataset": "any"}))
    counts = _run(folder / "d.json", folder / "work").counts
    assert counts["captions_read"] == len(texts) + 2 == counts["captions_kept"] + counts["captions_dropped"]
    kept = {row["position"]: row["text"] for row in pq.read_table(folder / "work/train/captions.parquet").to_pylist()}
    assert all(texts[i].strip() == text for i, text in kept.items() if i < len(texts))


def test_run__nothing_kept_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    for file in source.parent.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match=r"None of the 6 images .* kept \(6 missing\)\. The first: .*missing.*--images"):
        _run(source, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*/")), "no folder of empty tables"


@pytest.mark.parametrize("force", [False, True])
def test_run__tars_that_are_there_outlive_a_source_whose_images_are_gone(tmp_path: Path, force: bool) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    work = tmp_path / "work"
    _run(source, work)
    before = _bytes(work)
    for file in source.parent.rglob("*.jpg"):
        file.rename(file.with_suffix(".away"))
    with pytest.raises(DataError, match=r"None of the 6 images .* \(6 missing\)\. The first: .*No such file.*--images"):
        _run(source, work, force=force)
    assert _bytes(work) == before
    for file in source.parent.rglob("*.away"):
        file.rename(file.with_suffix(".jpg"))
    assert not _run(source, work).fresh


def test_run__tars_that_are_there_outlive_a_table_without_rows(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    work = tmp_path / "work"
    _run(source, work)
    before = _bytes(work)
    (tmp_path / "t.csv").write_text("image,caption\n")
    with pytest.raises(DataError, match="None of the 0 rows"):
        shard.run(ShardConfig(workers=1), reading=readers.read("table", tmp_path / "t.csv", tmp_path), out=work)
    assert _bytes(work) == before
    assert not _run(source, work).fresh


def test_run__an_image_in_two_splits_is_told(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    shutil.copy(source.parent / "train/picture_0000.jpg", source.parent / "test/picture_0004.jpg")
    notes = _run(source, tmp_path / "work").notes
    assert any("1 images stand in more than one split" in note for note in notes)


def test_run__a_table_without_one_readable_row_says_so(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,A dog, a cat and {number} birds" for number in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    reading = readers.read("table", tmp_path / "t.csv", tmp_path)
    words = (
        r"None of the 3 rows could be read \(3 bad-row\)\. The first: t\.csv:2: bad-row .*needs quotes.*Mend the file"
    )
    with pytest.raises(DataError, match=words):
        shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")


def test_run__known_matches_come_along_for_what_is_kept(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    (source.parent / "test/picture_0005.jpg").unlink()
    pairs = [("mini/picture_0004", "mini/picture_0004#0"), ("mini/picture_0005", "mini/picture_0004#1")]
    pairs += [("mini/picture_0004", "mini/picture_0005#0"), ("mini/picture_0004", "mini/picture_0004#2")]
    table = pa.Table.from_pylist([{"image_key": i, "caption_key": c} for i, c in pairs], schema=schemas.TRUTH)
    store.write_table(source.parent / "truth-test.parquet", table)
    _run(source, tmp_path / "work")
    kept = pq.read_table(tmp_path / "work/test/truth.parquet").to_pylist()
    assert [(row["image_key"], row["caption_key"]) for row in kept] == [pairs[0], pairs[3]]
    assert not (tmp_path / "work/train/truth.parquet").exists()
    assert not _run(source, tmp_path / "work").fresh


def test_split__a_missing_or_cut_tar_is_named(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3)
    cut = work / "test/00000.tar"
    cut.write_bytes(cut.read_bytes()[:700])
    with pytest.raises(DataError, match=r"00000\.tar ends within mini/picture_0006"):
        Split(work, "test").image_bytes(0)
    cut.unlink()
    with pytest.raises(DataError, match=r"00000\.tar cannot be opened"):
        Split(work, "test").image_bytes(0)
    with pytest.raises(DataError, match="no split 'dev'; it has train, val, test"):
        Split(work, "dev")
    with pytest.raises(DataError, match="does not exist"):
        Split(tmp_path / "nowhere", "train")


def test_run__says_why_rows_were_dropped(hostile: Path, tmp_path: Path) -> None:
    outcome = _run(hostile.parent / "dataset_hostile.json", tmp_path / "work")
    drops = pq.read_table(tmp_path / "work/train/drops.parquet")["reason"].to_pylist()
    most = max(set(drops), key=drops.count)
    assert any(f"{drops.count(most)} {most}" in note and "cusa list drop-reasons" in note for note in outcome.notes)


def _rewrite(source: Path, keep: tuple[str, ...]) -> None:
    content = json.loads(source.read_text())
    content["images"] = [row for row in content["images"] if row["split"] in keep]
    source.write_text(json.dumps(content))


def test_run__a_split_or_truth_that_the_source_lost_goes_too(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3)
    rows = [{"image_key": "mini/picture_0006", "caption_key": "mini/picture_0006#1"}]
    for name in ("test", "val"):
        truth = pa.Table.from_pylist(rows, schema=schemas.TRUTH)
        store.write_table(source.parent / f"truth-{name}.parquet", truth)
    work = tmp_path / "work"
    done = _run(source, work)
    assert (done.counts["shards"], done.counts["images_kept"], done.counts["captions_kept"]) == (3, 9, 45)
    assert (work / "test/truth.parquet").is_file()
    (source.parent / "truth-test.parquet").unlink()
    assert _run(source, work).fresh
    assert not (work / "test/truth.parquet").exists()
    _rewrite(source, ("train", "test"))
    (source.parent / "truth-val.parquet").unlink()
    done = _run(source, work)
    assert (done.counts["shards"], done.counts["images_kept"]) == (2, 6)
    left = [file.name for file in work.glob("val/*") if file.name != store.LOCK]
    assert left == [], "nothing of the split that is gone"
    assert ledger.read(work / "shard.ledger.json").outputs.keys() == {  # type: ignore[union-attr]
        "duplicates.parquet",
        *(
            f"{name}/{file}"
            for name in ("test", "train")
            for file in ("00000.tar", *(f"{table}.parquet" for table in ("samples", "captions", "drops", "shards")))
        ),
    }


def test_run__by_force_nothing_that_a_killed_run_left_is_taken(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=4)
    _killed_before_the_ledger(source, tmp_path / "work")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/0*.tar")}
    _run(source, tmp_path / "work", force=True)
    assert len(times) == 3
    assert all(path.stat().st_mtime_ns != before for path, before in times.items())
    assert not list((tmp_path / "work").rglob(tar.UNITS))


def test_run__what_a_kill_after_the_ledger_left_is_cleared_up(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_tidy", _dies)
        _run(source, tmp_path / "work")
    assert list((tmp_path / "work").rglob(tar.UNITS))
    assert not _run(source, tmp_path / "work").fresh
    assert not list((tmp_path / "work").rglob(tar.UNITS))


@pytest.mark.parametrize("rows", [1, 2, 10_000])
def test_run__many_copies_and_drops_are_written_in_pieces(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_ROWS", rows)
    source = write_karpathy(tmp_path / "raw", images=4, splits=("train", "test"), captions=1)
    for other in ("train/picture_0001", "test/picture_0004", "test/picture_0005"):
        shutil.copy(source.parent / "train/picture_0000.jpg", source.parent / f"{other}.jpg")
    shutil.copy(source.parent / "test/picture_0006.jpg", source.parent / "test/picture_0007.jpg")
    reading = readers.read("karpathy", source)
    lost = [Drop("train", "", f"row {number}", "caption", "bad-row", "why") for number in range(5)]
    reading = replace(reading, rows=[*reading.images, *lost])
    done = shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")
    copies = pq.read_table(tmp_path / "work/duplicates.parquet").to_pylist()
    assert sorted(row["key"][-1] for row in copies) == list("014567")
    assert any(note.startswith("4 images have the bytes of another one") for note in done.notes)
    assert any(note.startswith("2 images stand in more than one split") for note in done.notes)
    drops = pq.read_table(tmp_path / "work/train/drops.parquet")["source"].to_pylist()
    assert drops == [f"row {number}" for number in range(5)]
    assert done.counts["captions_dropped"] == 5


def test_run__another_data_set_does_not_replace_the_one_that_is_there_unasked(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=3)
    reading = readers.read("karpathy", source, source.parent)
    out = tmp_path / "work"
    shard.run(ShardConfig(workers=1), reading=reading, out=out)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.tar"))}
    other = replace(reading, dataset="other")
    with pytest.raises(StaleError, match="holds the data set 'mini', and 'other' would replace it.*--dataset mini"):
        shard.run(ShardConfig(workers=1), reading=other, out=out)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.tar"))} == before
    assert not shard.run(ShardConfig(workers=1), reading=reading, out=out).fresh
    assert shard.run(ShardConfig(workers=1), reading=other, out=out, force=True).fresh
