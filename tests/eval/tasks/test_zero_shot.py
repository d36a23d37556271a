"""Zero-shot classification of a student whose embeddings are known, against plain loops."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import rank
from cusa.eval.tasks.zero_shot import class_embeddings, scored
from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.features import FeatureTable
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer

CONFIG = EvalConfig(batch_size=5, block=7, top=3, bootstrap=40)
PROMPTS = ("a photo of a {} thing.", "one {} wall, seen twice")


def _labelled(folder: Path, labels: list[str]) -> Split:
    """Return the test split of a drawn world, its images labelled anew."""
    split = worlds.open_split(worlds.make_work(folder, images=len(labels)), "test")
    rows = split.samples.to_pylist()
    for row, label in zip(rows, labels, strict=True):
        row["label"] = label
    store.write_table(split.folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    return Split(split.work, "test")


def _colour_labels(number: int) -> list[str]:
    # Picture n of the test split has colour (2 number + n) mod 4; one image has no label.
    colours = list(worlds.COLOURS)
    return [f"{(2 * number + n) % 4}.{colours[(2 * number + n) % 4]}" if n else "" for n in range(number)]


def _by_loops(split: Split) -> tuple[dict[str, float], list[int]]:
    """Return the numbers and each labelled image's rank, one image, class and prompt at a time."""
    student = Seer().eval()
    labels = split.samples["label"].to_pylist()
    classes = list(dict.fromkeys(filter(None, labels)))
    vectors = []
    for label in classes:
        rows = [student.encode_text(student.tokenize([p.replace("{}", label[2:])])) for p in PROMPTS]
        mean = torch.cat(rows).detach().double().mean(0)
        vectors.append((mean / mean.norm()).numpy())
    ranks, hits_of = [], {label: [] for label in classes}
    for row, label in enumerate(labels):
        if not label:
            continue
        picture = student.encode_image(student.pixels(torch.from_numpy(_array(student, split, row))[None]))
        scores = [float(picture.detach().double().numpy()[0] @ vector) for vector in vectors]
        own = scores[classes.index(label)]
        ranks.append(1 + sum(score > own for at, score in enumerate(scores) if classes[at] != label))
        hits_of[label].append(ranks[-1] == 1)
    top = 100 * sum(rank == 1 for rank in ranks) / len(ranks)
    return {"top@1": top, "class_mean": 100 * np.mean([np.mean(hits) for hits in hits_of.values()])}, ranks


def _array(student: Seer, split: Split, row: int) -> np.ndarray:
    from cusa.models.preprocess import decode

    return np.array(student.image_array(decode(split.image_bytes(row))))


def test_zero_shot__equals_plain_loops(tmp_path: Path) -> None:
    split = _labelled(tmp_path, _colour_labels(11))
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    config = CONFIG.model_copy(update={"templates": str(file)})
    result = evaluating.run(config, load=Seer, split=split, out=tmp_path / "eval", tasks=["zero-shot"])
    task = result["tasks"]["zero-shot"]
    expected, ranks = _by_loops(split)
    assert 0 < expected["top@1"] < 100, "a world that tells something"
    assert task["metrics"] == pytest.approx(expected, abs=1e-3)
    assert task["queries"] == 10
    assert task["classes"] == 4
    assert task["chance"] == {"top@1": 25.0, "class_mean": 25.0}
    assert "without a label left out" in task["protocol"]
    for name, (low, high) in task["intervals"].items():
        assert low <= task["metrics"][name] <= high
    table = pq.read_table(tmp_path / "eval" / "per_query.parquet").to_pylist()
    assert [row["rank"] for row in table] == ranks
    assert {row["direction"] for row in table} == {"image-to-class"}
    assert table[0]["query_key"] == split.image_keys[1]
    assert set(table[0]["top_keys"]) <= set(split.samples["label"].to_pylist())


def test_zero_shot__other_templates_are_another_evaluation_and_the_same_are_not(tmp_path: Path) -> None:
    split = _labelled(tmp_path, _colour_labels(6))
    file = tmp_path / "prompts.txt"

    def run(text: str) -> bool:
        file.write_text(text)
        config = CONFIG.model_copy(update={"templates": str(file)})
        return bool(evaluating.run(config, load=Seer, split=split, out=tmp_path / "eval", tasks=["zero-shot"])["fresh"])

    assert run("a {} wall") is True
    assert run("a {} wall\n") is False
    assert run("the {} wall") is True


def test_zero_shot__a_split_without_classes_says_so(tmp_path: Path) -> None:
    split = worlds.open_split(worlds.make_work(tmp_path, images=4), "test")
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "eval", tasks=["zero-shot"])
    assert "no image has a label" in result["tasks"]["zero-shot"]["unavailable"]
    assert "zero-shot" not in evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "all")["tasks"]


def test_zero_shot__a_broken_file_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    split = _labelled(tmp_path, _colour_labels(4))

    def load() -> Seer:
        raise AssertionError("loaded")

    file = tmp_path / "prompts.txt"
    file.write_text("a photo")
    for setting in ("templates", "class_names"):
        config = CONFIG.model_copy(update={setting: str(file)})
        with pytest.raises(DataError, match="line 1: 'a photo'|entry 1"):
            evaluating.run(config, load=load, split=split, out=tmp_path / setting, tasks=["zero-shot"])


def test_zero_shot__heads_that_know_no_encoder_say_how_they_get_one(tmp_path: Path) -> None:
    split = _labelled(tmp_path, _colour_labels(4))
    student = Seer()
    student.features = {"text": FeatureTable("of old", 3, {}, "")}
    result = evaluating.run(CONFIG, load=lambda: student, split=split, out=tmp_path / "eval", tasks=["zero-shot"])
    why = result["tasks"]["zero-shot"]["unavailable"]
    assert "rows of the table 'of old'" in why
    assert "cusa export RUN --to folder --out MODEL --text ENCODER" in why


@pytest.mark.parametrize(("classes", "chances"), [(5, {"top@1": 20.0}), (6, {"top@1": 16.6667, "top@5": 83.3333})])
def test_scored__the_first_k_of_more_classes_than_k(classes: int, chances: dict[str, float]) -> None:
    """All of five classes hold the right one whatever the model: that is no figure."""
    right = np.arange(12) % classes
    scores = np.random.default_rng(0).normal(size=(12, classes)).astype(np.float32)
    ranking = rank([scores], [np.array([one]) for one in right], top=3, at_r=False)
    numbers, spans, by_chance = scored(ranking, right, classes, CONFIG)
    assert list(numbers) == list(spans) == [*chances, "class_mean"]
    assert by_chance == {**chances, "class_mean": chances["top@1"]}
    place = (scores > scores[np.arange(12), right][:, None]).sum(1)
    for k in (1, 5)[: len(chances)]:
        assert numbers[f"top@{k}"] == pytest.approx(100 * (place < k).mean())


def test_class_embeddings__are_the_unit_means_of_each_class() -> None:
    rows = np.eye(4, dtype=np.float32)
    assert class_embeddings(rows, 2) == pytest.approx(np.array([[1, 1, 0, 0], [0, 0, 1, 1]]) / 2**0.5)
    opposite = class_embeddings(np.array([[1.0, 0], [-1, 0]], np.float32), 2)
    assert np.isfinite(opposite).all()
