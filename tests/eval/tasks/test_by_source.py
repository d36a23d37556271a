"""R@K by the source of the caption, against plain loops over every score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.scores import Table
from cusa.eval.tasks import cross_modal, intervals
from cusa.eval.tasks.task import Embedded
from cusa.manifests.samples import Split
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ReadConfig, ShardConfig
from tests.worlds import make_work, write_karpathy


def _seen(split: Split, scores_IC: np.ndarray) -> Embedded:
    config = EvalConfig(bootstrap=20, block=3)
    return Embedded(config, Evidence.open(split), {}, {}, scores=Table(scores_IC), score="x", uni="", uni_words="")


def _by_loops(split: Split, scores_IC: np.ndarray, source: str) -> dict[str, float]:
    owner, sources = split.caption_owner, np.array(split.caption_sources)
    mine = np.flatnonzero(sources == source)
    ranks: Mapping[str, list[int]] = {"image-to-text": [], "text-to-image": []}
    for caption in mine:
        own = scores_IC[owner[caption], caption]
        ranks["text-to-image"].append(
            1 + sum(scores_IC[image, caption] >= own for image in range(split.num_images) if image != owner[caption])
        )
    for image in range(split.num_images):
        best = max((scores_IC[image, caption] for caption in mine if owner[caption] == image), default=None)
        if best is not None:
            foreign = [scores_IC[image, caption] for caption in range(split.num_captions) if owner[caption] != image]
            ranks["image-to-text"].append(1 + sum(score >= best for score in foreign))
    return {
        f"{direction}/r@{k}": round(100 * float(np.mean([rank <= k for rank in of_queries])), 4)
        for direction, of_queries in ranks.items()
        for k in (1, 5, 10)
    }


def test_own_pairs__by_source_are_what_plain_loops_count(tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=9, splits=("test",), captions=3)
    config = ReadConfig(caption_sources={"#2": "synthetic", "": "human"})
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, config=config), out=tmp_path / "work")
    split = Split(tmp_path / "work", "test")
    scores_IC = np.random.default_rng(0).integers(-4, 4, (9, 27)).astype(np.float32)
    scores_IC[split.caption_owner, np.arange(27)] += 2
    result = cross_modal.own_pairs(_seen(split, scores_IC)).summary
    assert list(result["by_source"]) == ["human", "synthetic"]
    for name, captions in (("human", 18), ("synthetic", 9)):
        measured: dict[str, Any] = result["by_source"][name]
        expected = _by_loops(split, scores_IC, name)
        assert {key: measured["metrics"][key] for key in expected} == expected
        assert abs(measured["metrics"]["rsum"] - sum(expected.values())) < 0.001
        assert (measured["captions"], measured["queries"]) == (captions, 9 + captions)
        assert measured["intervals"]["text-to-image/r@1"] is not None
    # All captions together ask from text to image what the sources ask one after the other.
    whole = result["metrics"]["text-to-image/r@1"] * 27
    parts = [
        result["by_source"][name]["metrics"]["text-to-image/r@1"] * n for name, n in (("human", 18), ("synthetic", 9))
    ]
    assert abs(whole - sum(parts)) < 0.01


def test_own_pairs__intervals_by_source_draw_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions of an image are drawn together: what is drawn is named for each query."""
    source = write_karpathy(tmp_path / "raw", images=4, splits=("test",), captions=3)
    config = ReadConfig(caption_sources={"#2": "synthetic", "": "human"})
    shard.run(ShardConfig(workers=1), reading=readers.read("karpathy", source, config=config), out=tmp_path / "work")
    split = Split(tmp_path / "work", "test")
    drawn: list[dict[str, list[int]]] = []
    whole = intervals.of_rankings

    def of_rankings(config: Any, directions: Any, image_of: Any, *others: Any, **options: Any) -> Any:
        drawn.append({name: np.asarray(rows).tolist() for name, rows in image_of.items()})
        return whole(config, directions, image_of, *others, **options)

    monkeypatch.setattr(intervals, "of_rankings", of_rankings)
    cross_modal.own_pairs(_seen(split, np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)))
    images = list(range(4))
    for captions in ([0, 0, 1, 1, 2, 2, 3, 3], images):  # the human ones, two an image, and the synthetic ones
        assert {"image-to-text": images, "text-to-image": captions} in drawn


def test_own_pairs__of_one_source_or_none_are_not_told_apart(tmp_path: Path) -> None:
    split = Split(make_work(tmp_path, images=4, splits=("test",), captions=2), "test")
    scores_IC = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    assert "by_source" not in cross_modal.own_pairs(_seen(split, scores_IC)).summary
