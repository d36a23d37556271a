"""One hostile folder through the whole data plane: every broken image under every odd name, captions that attack.

What is refused stands in the drops table with its reason; what is kept comes through tars, tables, SQL and the gallery
as it was.
"""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset

from cusa.manifests import ledger
from cusa.manifests.samples import Split
from cusa.pipeline import audit, extract, index, readers, shard, verify
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.sql.database import connect
from tests.pipeline.shard.test_stage import IMAGES

NAMES = [
    b"a name with spaces",
    b"quo'te\"d; DROP TABLE samples; --",
    b"line\nbreak\ttab",
    b"not\xffutf8\xfe",
    "ü雪🙂\u202egpj".encode(),
    b"x" * 240,
    b"deep/" + b"d" * 150 + b"/" + b"e" * 150,  # 300 characters and more
    b"<img src=x onerror=alert(1)>",
    b"-rf",
    b"$(touch pwned)`id`",
]
CAPTIONS = [
    "control \x00\x07\x1b[31m characters",
    "right \u202eot tfel\u202c to left \u200f",
    "emoji 👩‍👩‍👧‍👦 and a flag 🏳️‍🌈",
    "long " + "word " * 20_000,
    "'; DROP TABLE captions; SELECT * FROM read_csv('/etc/passwd') --",
    "<script>alert('x')</script> & <img src=x onerror=alert(1)>",
    "half a pair \ud83d of a surrogate",
    "{{7*7}} ${HOME} %(key)s {0}",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "mine"
    kinds = [(name, content) for name, (content, _) in IMAGES.items() if content is not None]
    for number in range(max(len(NAMES), len(kinds)) * 2):
        kind, content = kinds[number % len(kinds)]
        name = NAMES[number % len(NAMES)] + b"-%d" % number
        path = Path(str(folder)) / name.decode("utf-8", "surrogateescape")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + Path(kind).suffix).write_bytes(content)
        texts = [CAPTIONS[(number + i) % len(CAPTIONS)] for i in range(2)]
        path.with_name(f"{path.name}.json").write_text(json.dumps(texts))
    out = folder.parent / "work"
    shard.run(ShardConfig(max_images=5, workers=1), reading=readers.read("folder", folder), out=out)
    for modality, teacher in (("image", "offline-gist"), ("text", "offline-ngrams")):
        extract.run(ExtractConfig(), split=Split(out, "train"), teacher=teacher, modality=modality)
        index.run(IndexConfig(neighbours=3), split=Split(out, "train"), teacher=teacher)
    return out


def test_nothing_is_lost(work: Path) -> None:
    counts = ledger.read(work / "shard.ledger.json").counts  # type: ignore[union-attr]
    kinds = [name for name, (content, _) in IMAGES.items() if content is not None]
    broken = {name: reason for name, (_, reason) in IMAGES.items() if reason}
    number = max(len(NAMES), len(kinds)) * 2
    expected = [broken.get(kinds[i % len(kinds)]) for i in range(number)]
    assert counts["images_read"] == number == counts["images_kept"] + counts["images_dropped"]
    assert counts["captions_read"] == 2 * number == counts["captions_kept"] + counts["captions_dropped"]
    assert counts["images_kept"] == expected.count(None)
    drops = pq.read_table(work / "train/drops.parquet").to_pylist()
    reasons = sorted(row["reason"] for row in drops if row["kind"] == "image")
    assert reasons == sorted(reason for reason in expected if reason)
    assert all(row["detail"] for row in drops)


def test_verify_finds_every_byte_in_its_place(work: Path) -> None:
    assert verify.run(work, workers=1).findings == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_plain_webdataset_reads_the_same_captions(work: Path) -> None:
    table = pq.read_table(work / "train/captions.parquet").to_pylist()
    expected = {row["caption_key"]: row["text"] for row in table}
    found = {}
    tars = [str(path) for path in sorted((work / "train").glob("*.tar"))]
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        assert len([name for name in sample if not name.startswith("__")]) == 2
        for caption in json.loads(sample["json"])["captions"]:
            found[caption["caption_key"]] = caption["text"]
    assert found == expected
    whole = {caption.strip().encode("utf-8", "replace").decode() for caption in CAPTIONS}
    assert set(expected.values()) == whole, "as they were, but for half a pair, which no table can hold"


def test_sql_and_gallery_show_them_as_text(work: Path) -> None:
    audit.run(AuditConfig(neighbours=3, gallery=30), split=Split(work, "train"))
    page = (work / "train/audit/gallery.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert re.search(r"&lt;(script|img src=x)", page)
    with connect(work) as database:
        for caption in CAPTIONS[4:6]:
            quoted = caption.replace("'", "''")
            found = database.run(f"SELECT count(*) FROM captions WHERE text = '{quoted}'")
            assert found.rows[0][0] > 0
        assert database.run("SELECT count(*) FROM samples").rows[0][0] > 0
