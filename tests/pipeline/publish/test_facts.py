"""The facts of a work folder: counted from its tables, named by its keys, or as one says."""

from pathlib import Path

import pyarrow as pa
import pytest

from cusa.manifests import datasets, schemas
from cusa.manifests.records import CaptionRecord, ImageRecord
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import shard
from cusa.pipeline.config import ShardConfig
from cusa.pipeline.publish import facts
from cusa.pipeline.readers import Reading
from tests.worlds import make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("facts"), images=3, captions=2, splits=("train", "test"))


def test_gather__what_the_tables_and_summaries_say(work: Path) -> None:
    drops = [("image", "missing"), ("caption", "language"), ("image", "missing")]
    rows = [dict(zip(schemas.DROPS.names, ("", "", kind, why, ""), strict=True)) for kind, why in drops]
    store.write_table(work / "test/drops.parquet", pa.Table.from_pylist(rows, schema=schemas.DROPS))
    (work / "train/drops.parquet").unlink()
    copies = [{"sha256": "a", "split": name, "key": "k"} for name in ("test", "train", "test", "val")]
    store.write_table(work / "duplicates.parquet", pa.Table.from_pylist(copies, schema=schemas.DUPLICATES))
    store.write_json(work / "test/audit/summary.json", {"open_pairs": 3})
    store.write_json(work / "test/audit/pairs/summary.json", {"pairs": 6})
    store.write_text(work / "train/audit/summary.json", "{")
    store.write_json(work / "train/audit/pairs/summary.json", [1])
    found = facts.gather(work)
    assert (found.name, found.title, found.licence, found.homepage, found.images) == ("mini", "mini", "", "", 6)
    sizes = {name: sum(len(Split(work, name).image_bytes(row)) for row in range(3)) for name in ("train", "test")}
    assert found.splits == [
        facts.SplitFacts("train", 3, 6, sizes["train"], {}, 1, None, None, {}),
        facts.SplitFacts(
            *("test", 3, 6, sizes["test"], {("caption", "language"): 1, ("image", "missing"): 2}, 2),
            *({"open_pairs": 3}, {"pairs": 6}, {}),
        ),
    ]
    assert list(found.splits[1].drops) == [("caption", "language"), ("image", "missing")]
    named = facts.gather(work, name="mine", licence="CC0", url="https://b.example")
    assert (named.name, named.title, named.licence, named.homepage) == ("mine", "mine", "CC0", "https://b.example")


def test_gather__a_data_set_that_the_package_knows_and_its_sources(tmp_path: Path) -> None:
    texts = (
        CaptionRecord("", "a dog", source="human"),
        CaptionRecord("", "dog"),
        CaptionRecord("", "a hound", source="human"),
    )
    rows = [ImageRecord(f"flickr8k/{name}", "train", None, name, texts) for name in "ab"]
    shard.run(ShardConfig(workers=1), reading=Reading("flickr8k", rows, {}), out=tmp_path / "work")
    known = datasets.load("flickr8k")
    found = facts.gather(tmp_path / "work")
    assert (found.name, found.title) == ("flickr8k", known.title)
    assert (found.licence, found.homepage) == (known.licence, known.homepage)
    assert found.splits[0].sources == {"human": 4, "no source": 2}
    own = facts.gather(tmp_path / "work", name="mine", licence="CC0", url="u")
    assert (own.name, own.title, own.licence, own.homepage) == ("mine", known.title, "CC0", "u")


def test_gather__a_split_without_rows_is_called_by_its_folder(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=1, captions=1, splits=("train",))
    for file in ("samples", "captions", "shards"):
        table = store.read_table(work / f"train/{file}.parquet")
        store.write_table(work / f"train/{file}.parquet", table.slice(0, 0))
    found = facts.gather(work)
    assert (found.name, found.title, found.images) == ("work", "work", 0)
