"""The gallery: self-contained, escaped, one card for any two pictures."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from tests.pipeline.audited import make_taught, teach
from tests.worlds import make_work

CONFIG = AuditConfig(neighbours=4, gallery=7)


class _Page(HTMLParser):
    """Collects what a page loads and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


def _page(work: Path) -> _Page:
    return _Page((work / "train/audit/gallery.html").read_text(encoding="utf-8"))


def test_write__pictures_are_inside_and_right(tmp_path: Path) -> None:
    work = make_taught(tmp_path)
    split = Split(work, "train")
    audit.run(CONFIG, split=split)
    page = _page(work)
    assert len(page.sources) == 14
    rows = pq.read_table(work / "train/audit/candidates.parquet").to_pylist()
    seen, shown = set(), []
    for row in rows:
        couple = frozenset((row["image_key"], row["owner_image_key"]))
        if couple not in seen:
            seen.add(couple)
            shown.append(row)
    for number, row in enumerate(shown[:7]):
        for source, key in zip(page.sources[2 * number :], (row["image_key"], row["owner_image_key"]), strict=False):
            assert source.startswith("data:image/jpeg;base64,")
            got = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
            image = Image.open(io.BytesIO(split.image_bytes(split.image_keys.index(key)))).convert("RGB")
            assert got.size == image.size
            assert max(abs(a - b) for a, b in zip(got.getpixel((20, 20)), image.getpixel((20, 20)), strict=True)) < 60
        words = split.texts[split.caption_keys.index(row["caption_key"])]
        assert words in page.words
        assert row["caption_key"] in page.words
        assert f"{row['score']:.3f}" in page.words
    assert "script" not in page.tags


def test_write__captions_are_text_and_nothing_else(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=4, splits=("train",))
    split = Split(work, "train")
    nasty = '<script>alert(1)</script>"><img src=x onerror=alert(2)> red & </article>'
    texts = split.captions.set_column(4, "text", pa.array([nasty] * split.num_captions))
    pq.write_table(texts, split.folder / "captions.parquet")
    teach(work, image="colours", text="words")
    audit.run(CONFIG, split=Split(work, "train"))
    page = _page(work)
    assert "script" not in page.tags
    assert all(source.startswith("data:") for source in page.sources)
    assert nasty in page.words
    assert page.tags.count("article") == 6


@pytest.mark.parametrize(("complete", "badges"), [("true", {"true", "not true"}), ("false", {"true"})])
def test_write__what_is_known_is_marked_and_the_rest_only_if_all_is_known(
    tmp_path: Path, complete: str, badges: set[str]
) -> None:
    work = make_taught(tmp_path)
    split = Split(work, "train")
    pairs = [(split.image_keys[i], caption) for i in range(6) for caption in split.caption_keys]
    table = pa.table([list(column) for column in zip(*pairs, strict=True)], schema=schemas.TRUTH)
    store.write_table(split.folder / "truth.parquet", table.replace_schema_metadata({"complete": complete}))
    audit.run(AuditConfig(neighbours=4, gallery=60), split=split)
    text = (work / "train/audit/gallery.html").read_text()
    assert set(re.findall(r'<span class="badge (?:good|bad)">([^<]+)</span>', text)) == badges
    assert ("≥" in text) == (complete == "false")


def test_write__a_damaged_picture_is_named(tmp_path: Path) -> None:
    work = make_taught(tmp_path)
    split = Split(work, "train")
    tar = split.folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    for row in split.samples.to_pylist():
        data[row["image_offset"] : row["image_offset"] + 40] = b"\0" * 40
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match="does not decode any more"):
        audit.run(CONFIG, split=split)
