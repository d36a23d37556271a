"""Faults of single pictures and captions, each planted and found, and ordinary ones left in peace."""

import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from cusa.manifests.judgements.own_pairs import FOLDER
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import readers, shard
from cusa.pipeline.config import PairsConfig, ShardConfig
from cusa.pipeline.own_pairs import caption_faults as caption_faults_of
from cusa.pipeline.own_pairs import issues
from cusa.pipeline.own_pairs import picture_faults as picture_faults_of
from cusa.pipeline.own_pairs.caption_faults import caption_faults
from cusa.pipeline.own_pairs.picture_faults import picture_faults
from tests.worlds import make_work, write_karpathy


def _faults(texts: list[str]) -> dict[int, set[str]]:
    numbers = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    faults = caption_faults(texts, np.arange(len(texts)), np.array([numbers[text] for text in texts]))
    found: dict[int, set[str]] = {}
    for one in faults:
        found.setdefault(one.row, set()).add(one.fault)
    return found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("dog", "too-short"),
        ("", "too-short"),
        ("<b>a dog</b> runs on grass", "markup"),
        ("see https://example.org for this dog", "markup"),
        ("a dog &amp; a cat on grass", "markup"),
        ("Photo by somebody, all rights reserved", "boilerplate"),
        ("this is IMG_1234.jpg of a dog", "boilerplate"),
    ],
)
def test_caption_faults__are_found(text: str, fault: str) -> None:
    assert fault in _faults([text])[0]


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs over green grass.",
        "Two men, one in red, play chess",
        "犬が草の上を走る",
        "a < b and c > d are signs",
    ],
)
def test_caption_faults__ordinary_captions_have_none(text: str) -> None:
    assert _faults([text]) == {}


def test_caption_faults__the_same_words_on_many_images() -> None:
    found = _faults(["a nice picture of it"] * 12 + ["a dog runs over grass"])
    assert all("repeated" in found[row] for row in range(12))
    assert 12 not in found


def test_caption_faults__another_language_than_the_rest() -> None:
    random = np.random.default_rng(0)
    things, deeds = ["dog", "man", "girl", "woman", "boy"], ["runs on", "sits near", "jumps over", "looks at"]
    places = ["the grass", "a red bench", "the white snow", "a tall tree"]
    texts = [f"a {random.choice(things)} {random.choice(deeds)} {random.choice(places)} number {k}" for k in range(400)]
    found = _faults([*texts, "Zwei Hunde spielen fröhlich auf einer Wiese", "xq zzkw pvvq jjx qqw"])
    assert found[400] == {"language"}
    assert "language" in found[401]
    assert sum("language" in names for row, names in found.items() if row < 400) < 8


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_picture_faults__are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    noisy = Image.fromarray(random.integers(0, 255, (200, 300, 3), dtype=np.uint8))
    plain = {
        0: Image.new("RGB", (300, 200), (90, 90, 90)),
        1: noisy.point(lambda value: value // 12),
        2: noisy.point(lambda value: 235 + value // 13),
        3: noisy.filter(ImageFilter.GaussianBlur(12)),
        4: noisy,
    }
    work = make_work(tmp_path, images=6, splits=("train",))
    split = Split(work, "train")
    data = {row: _jpeg(image) for row, image in plain.items()} | {5: b"no picture at all"}
    monkeypatch.setattr(Split, "image_bytes", lambda self, row: data[row])
    found: dict[int, set[str]] = {}
    for one in picture_faults(split):
        found.setdefault(one.row, set()).add(one.fault)
    assert found[0] == {"blank"}
    assert "dark" in found[1]
    assert "bright" in found[2]
    assert "blurred" in found[3]
    assert 4 not in found
    assert found[5] == {"broken"}


def test_run__writes_a_row_a_fault(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4, splits=("train",))
    outcome = issues.run(PairsConfig(), split=Split(work, "train"))
    table = pq.read_table(work / "train" / FOLDER / issues.TABLE)
    assert outcome.counts["issues"] == table.num_rows
    assert not issues.run(PairsConfig(), split=Split(work, "train")).fresh
    assert issues.run(PairsConfig(pictures=False), split=Split(work, "train")).fresh


@pytest.mark.parametrize(
    ("size", "faults"),
    [
        ((400, 100), []),
        ((401, 100), [("odd-aspect", 100 / 401, "401 x 100 pixels")]),
        ((100, 401), [("odd-aspect", 100 / 401, "100 x 401 pixels")]),
        ((32, 32), []),
        ((31, 64), [("tiny", 31.0, "31 x 64 pixels")]),
        ((20, 81), [("odd-aspect", 20 / 81, "20 x 81 pixels"), ("tiny", 20.0, "20 x 81 pixels")]),
    ],
)
def test_of_size__the_bounds_themselves_are_no_fault(
    size: tuple[int, int], faults: list[tuple[str, float, str]]
) -> None:
    assert list(picture_faults_of._of_size(*size)) == [
        (name, pytest.approx(value), said) for name, value, said in faults
    ]


def _of(pixels: np.ndarray) -> dict[str, float]:
    return {name: value for name, value, _ in picture_faults_of._of_pixels(Image.fromarray(pixels))}


def test_of_pixels__are_measured_as_numpy_measures() -> None:
    random = np.random.default_rng(0)
    for low, high in ((0, 30), (0, 60), (220, 256), (200, 256), (100, 160), (0, 256), (100, 104)):
        pixels = random.integers(low, high, (160, 200), dtype=np.uint8)
        counts = np.bincount(pixels.ravel(), minlength=256) / pixels.size
        entropy = -sum(p * np.log2(p) for p in counts if p)
        brightest, darkest = np.quantile(pixels, 0.99) / 255, np.quantile(pixels, 0.05) / 255
        edges = np.asarray(Image.fromarray(pixels).filter(ImageFilter.FIND_EDGES), dtype=float)[1:-1, 1:-1].std()
        expected = {"blank": entropy} if entropy < 0.5 else {}
        if not expected:
            measured = {"dark": (brightest, brightest < 0.15), "bright": (darkest, darkest > 0.85)}
            measured["blurred"] = (edges, edges < 8)
            expected = {name: value for name, (value, is_so) in measured.items() if is_so}
        assert _of(pixels) == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}, (low, high)
    assert _of(np.full((160, 160), 7, dtype=np.uint8)) == {"blank": 0.0}, "what is blank is not blurred as well"


def test_picture_faults__every_copy_and_what_has_no_pixels(tmp_path: Path) -> None:
    """Images with the same bytes name the number of the others; features and texts alone have no picture to fault."""
    source = write_karpathy(tmp_path / "raw", images=6, splits=("train",))
    for copy in (3, 5):
        shutil.copy(tmp_path / "raw/train/picture_0001.jpg", tmp_path / f"raw/train/picture_000{copy}.jpg")
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")
    events: list[tuple[str, int, int]] = []
    found = picture_faults(split, on_event=lambda *event: events.append(event))
    copies = {one.row: (one.value, one.detail) for one in found if one.fault == "duplicate"}
    assert copies == dict.fromkeys((1, 3, 5), (2.0, "the same bytes as 2 other images"))
    assert [one.row for one in found] == sorted(one.row for one in found)
    assert {one.kind for one in found} == {"image"}
    assert events == [("pictures of train", 0, 6), ("pictures of train", 6, 6)]
    exts = ["npy", *split.samples["ext"].to_pylist()[1:]]
    sizes = [*split.samples["image_bytes"].to_pylist()[:-1], 0]
    split.samples = split.samples.set_column(split.samples.column_names.index("ext"), "ext", pa.array(exts)).set_column(
        split.samples.column_names.index("image_bytes"), "image_bytes", pa.array(sizes, pa.int64())
    )
    rest = picture_faults(split)
    assert {one.row for one in rest} <= {1, 2, 3, 4}
    assert {one.value for one in rest if one.fault == "duplicate"} == {1.0}, "what has no bytes is nobody's copy"


@pytest.mark.parametrize(("same", "others", "repeated"), [(9, 0, False), (10, 0, True), (12, 12_500, False)])
def test_caption_faults__repeated_from_ten_images_or_a_thousandth(same: int, others: int, repeated: bool) -> None:
    texts = ["a nice picture of it"] * same + ["犬が草の上を走る"] * others
    owner = np.arange(len(texts))
    cleaned = np.concatenate([np.zeros(same, dtype=int), 1 + np.arange(others)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_faults_of, "_FEWEST_CAPTIONS", 1 << 30)
        faults = caption_faults(texts, owner, cleaned)
    assert [(one.row, one.value, one.detail) for one in faults] == [
        (row, float(same), f"the same words on {same} images") for row in range(same if repeated else 0)
    ]


def test_caption_faults__each_says_where_and_what() -> None:
    texts = ["two words", "see <b>the dog here", "Photo by " + "x" * 80 + ".jpeg here", "well http://x.org go"]
    found = caption_faults(texts, np.arange(4), np.arange(4))
    assert [(one.row, one.kind, one.fault, one.value, one.detail) for one in found] == [
        (0, "text", "too-short", 2.0, "2 words"),
        (1, "text", "markup", 4.0, "it has '<b>'"),
        (2, "text", "boilerplate", 0.0, "it has 'Photo by'"),
        (3, "text", "markup", 5.0, "it has 'http://'"),
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15))
def test_images_with_the_words__counts_images_not_captions(rows: list[tuple[int, int]]) -> None:
    owner, cleaned = (np.array([row[k] for row in rows], dtype=np.int64) for k in (0, 1))
    expected = [len({image for image, words in rows if words == own}) for _, own in rows]
    assert caption_faults_of.images_with_the_words(owner, cleaned).tolist() == expected


def test_usualness__equals_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abc d"), random.integers(0, 12))) for _ in range(220)]
    threes = [[f" {text.lower()} "[at : at + 3] for at in range(len(text))] for text in texts]
    total = sum(map(len, threes))
    strays = []
    for own in threes:
        rest = [three for other in threes if other is not own for three in other]
        counts = Counter(rest)
        level = sum(np.log((counts[three] + 0.1) / total) for three in own) / max(len(own), 1)
        strays.append((level, max(len(own), 1)))
    middle = np.median([level for level, _ in strays])
    values = np.array([(level - middle) * np.sqrt(length) for level, length in strays])
    expected = values / (1.4826 * np.median(np.abs(values - np.median(values))))
    np.testing.assert_allclose(caption_faults_of._usualness(texts), expected, rtol=1e-9)
    assert not caption_faults_of._usualness(texts[:199]).any(), "below 200 captions there is no language of the rest"
    assert caption_faults_of._usualness(texts[:200]).any()


def test_run__the_table_has_each_fault_with_its_key(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=5, splits=("train",), captions=2)
    content = store.read_json(source)
    content["images"][2]["sentences"][1]["raw"] = "Dog"
    store.write_json(source, content)
    shutil.copy(tmp_path / "raw/train/picture_0000.jpg", tmp_path / "raw/train/picture_0004.jpg")
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, source.parent), out=tmp_path / "work")
    split = Split(tmp_path / "work", "train")
    done = issues.run(PairsConfig(), split=split)
    path = tmp_path / "work/train" / FOLDER / issues.TABLE
    rows = pq.read_table(path).to_pylist()
    assert {row["key"] for row in rows if row["issue"] == "duplicate"} == {split.image_keys[0], split.image_keys[4]}
    assert {
        "modality": "text",
        "key": split.caption_keys[5],
        "issue": "too-short",
        "value": 1.0,
        "detail": "1 words",
    } in rows
    of_pixels = {(one.kind, one.fault) for one in picture_faults(split)}
    assert {(row["modality"], row["issue"]) for row in rows} == of_pixels | {("text", "too-short")}
    counted = Counter(f"{row['modality']} {row['issue']}" for row in rows)
    assert done.counts == {"issues": len(rows), **counted}
    said = ", ".join(f"{number} {name}" for name, number in sorted(counted.items()))
    assert done.notes == (f"{len(rows)} faults of single pictures and captions: {said}.",)
    assert issues.run(PairsConfig(), split=split).notes == done.notes
    assert pq.read_schema(path).metadata[b"split"] == split.digest.encode()
    assert issues.run(PairsConfig(), split=split, force=True).why == "--force"
    without = issues.run(PairsConfig(pictures=False), split=split)
    assert without.counts == {"issues": 1, "text too-short": 1}
    assert pq.read_table(path)["modality"].to_pylist() == ["text"]


def test_run__no_fault_is_said_as_well(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=3, splits=("train",))
    done = issues.run(PairsConfig(pictures=False), split=Split(work, "train"))
    assert done.counts == {"issues": 0}
    assert done.notes == ("No picture or caption has a fault that was looked for.",)
    assert pq.read_table(work / "train" / FOLDER / issues.TABLE).num_rows == 0
