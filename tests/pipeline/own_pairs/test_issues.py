"""Faults of single pictures and captions, each planted and found, and ordinary ones left in peace."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from cusa.manifests.judgements.own_pairs import FOLDER
from cusa.manifests.samples import Split
from cusa.pipeline.config import PairsConfig
from cusa.pipeline.own_pairs import issues
from cusa.pipeline.own_pairs.caption_faults import caption_faults
from cusa.pipeline.own_pairs.picture_faults import picture_faults
from tests.worlds import make_work


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
