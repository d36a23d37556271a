"""A whole evaluation of a student whose embeddings are known, against plain loops over all pairs."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import BusyError, DataError
from cusa.eval import evaluate
from cusa.eval.config import RETRIEVAL_PROTOCOL, EvalConfig
from cusa.eval.encode import Embeddings, embed_texts, encode
from cusa.eval.evidence import Evidence
from cusa.eval.job import Job, ModelSource
from cusa.eval.share import ALONE
from cusa.eval.tasks import intervals
from cusa.manifests import schemas
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import features
from tests import worlds
from tests.eval import evaluating
from tests.eval.seers import Seer
from tests.manifests.judgements.test_verdicts import make

CONFIG = EvalConfig(batch_size=5, ks=(1, 3), block=7, top=4, bootstrap=60)


def _world(folder: Path, *, truth: bool = False, **world: int) -> Split:
    split = worlds.open_split(worlds.make_work(folder, **world), "test")
    if truth:
        # A caption is true of every picture of its colour: picture n has colour n mod 4, and so has its caption.
        colour = [int(key.rpartition("_")[2]) % 4 for key in split.image_keys]
        pairs = [
            {"image_key": image, "caption_key": caption}
            for row, image in enumerate(split.image_keys)
            for caption, owner in zip(split.caption_keys, split.caption_owner, strict=True)
            if colour[owner] == colour[row]
        ]
        store.write_table(split.folder / "truth.parquet", schemas.TRUTH.empty_table().from_pylist(pairs, schemas.TRUTH))
    return split


def _run(split: Split, out: Path, config: EvalConfig = CONFIG, **student: bool) -> dict[str, object]:
    return evaluating.run(config, load=lambda: Seer(**student), student_digest="1", split=split, out=out)


def _ranks(queries: np.ndarray, gallery: np.ndarray, right: list[set[int]], *, itself: bool) -> list[list[int]]:
    """Return the places of each query's right items, by sorting everything."""
    places = []
    for query, own in enumerate(right):
        scores = [float(np.float32(score)) for score in gallery @ queries[query]]
        order = [g for g in range(len(gallery)) if not (itself and g == query)]
        order.sort(key=lambda g: (-round(scores[g], 6), g in own))
        places.append([place for place, g in enumerate(order, 1) if g in own])
    return places


def _recall(places: list[list[int]], k: int) -> float:
    return 100 * sum(1 for found in places if found and found[0] <= k) / len(places)


def _at_r(places: list[list[int]]) -> tuple[float, float]:
    inside = [[place for place in found if place <= len(found)] for found in places]
    precision = [len(hits) / len(found) for hits, found in zip(inside, places, strict=True)]
    average = [
        sum(number / place for number, place in enumerate(hits, 1)) / len(found)
        for hits, found in zip(inside, places, strict=True)
    ]
    return 100 * sum(precision) / len(places), 100 * sum(average) / len(places)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Path, dict, Embeddings]:
    folder = tmp_path_factory.mktemp("scored")
    split = _world(folder, truth=True, images=12, captions=3)
    result = _run(split, folder / "eval")
    return split, folder / "eval", result, encode(Seer(), split, CONFIG)


def test_run__every_number_equals_plain_loops(scored: tuple[Split, Path, dict, Embeddings]) -> None:
    split, _, result, seen = scored
    images, captions, owner = split.num_images, split.num_captions, split.caption_owner
    colour = [int(key.rpartition("_")[2]) % 4 for key in split.image_keys]
    tasks = {name: task["metrics"] for name, task in result["tasks"].items()}
    own = {
        "image-to-text": [{c for c in range(captions) if owner[c] == i} for i in range(images)],
        "text-to-image": [{int(owner[c])} for c in range(captions)],
    }
    true = {
        "image-to-text": [{c for c in range(captions) if colour[owner[c]] == colour[i]} for i in range(images)],
        "text-to-image": [{i for i in range(images) if colour[owner[c]] == colour[i]} for c in range(captions)],
    }
    sides = {"image-to-text": ("image", "text"), "text-to-image": ("text", "image")}
    rows = {"image": seen.image, "text": seen.text}
    total = 0.0
    for direction, (source, target) in sides.items():
        places = _ranks(rows[source]["cross"], rows[target]["cross"], own[direction], itself=False)
        for k in CONFIG.ks:
            assert tasks["cross-modal"][f"{direction}/r@{k}"] == pytest.approx(_recall(places, k), abs=1e-4)
            total += _recall(places, k)
        median = float(np.median([found[0] for found in places]))
        assert tasks["cross-modal"][f"{direction}/median_rank"] == median
        places = _ranks(rows[source]["cross"], rows[target]["cross"], true[direction], itself=False)
        found = tasks["cross-modal-truth"]
        assert found[f"{direction}/r@1"] == pytest.approx(_recall(places, 1), abs=1e-4)
        precision, average = _at_r(places)
        assert found[f"{direction}/r_precision"] == pytest.approx(precision, abs=1e-4)
        assert found[f"{direction}/map_at_r"] == pytest.approx(average, abs=1e-4)
    assert tasks["cross-modal"]["rsum"] == pytest.approx(total, abs=1e-3)
    uni = {
        "text-to-text": (
            seen.text["uni"],
            [{c for c in range(captions) if owner[c] == owner[q] and c != q} for q in range(captions)],
        ),
        "image-to-image": (
            seen.image["uni"],
            [{i for i in range(images) if colour[i] == colour[q] and i != q} for q in range(images)],
        ),
    }
    for task, (embedded, right) in uni.items():
        places = _ranks(embedded, embedded, right, itself=True)
        for k in CONFIG.ks:
            assert tasks[task][f"r@{k}"] == pytest.approx(_recall(places, k), abs=1e-4)
        precision, average = _at_r(places)
        assert tasks[task]["r_precision"] == pytest.approx(precision, abs=1e-4)
        assert tasks[task]["map_at_r"] == pytest.approx(average, abs=1e-4)


def test_run__the_student_is_neither_perfect_nor_lost(scored: tuple[Split, Path, dict, Embeddings]) -> None:
    """Else the test above would prove little."""
    metrics = scored[2]["tasks"]
    for task, name in (("cross-modal", "rsum"), ("text-to-text", "r@1"), ("image-to-image", "r_precision")):
        top = 400 if name == "rsum" else 100
        assert 0 < metrics[task]["metrics"][name] < top


def _interval(split: Split, out: Path, task: str, metric: str) -> tuple[float, float]:
    """Return a number's interval by a plain loop: images are drawn, and each brings all of its queries along."""
    table = pq.read_table(out / "per_query.parquet").to_pylist()
    uni = task in ("text-to-text", "image-to-image")
    known_matches = uni or task == "cross-modal-truth"
    parts = [metric] if metric != "rsum" else [f"{way}/r@{k}" for way in _WAYS for k in CONFIG.ks]
    terms = []
    for part in parts:
        direction, _, name = part.rpartition("/")
        values: list[list[float]] = [[] for _ in split.image_keys]
        for row in table:
            if (row["task"], row["direction"]) != (("uni-modal", task) if uni else (task, direction)):
                continue
            if known_matches and not row["positives"]:
                continue
            hit = float(1 <= row["rank"] <= int(name.partition("@")[2])) if "@" in name else None
            column = "average_precision" if name == "map_at_r" else name
            key = row["query_key"].partition("#")[0]
            values[split.image_keys.index(key)].append(row[column] if hit is None else hit)
        terms.append(values)
    rng = np.random.default_rng(CONFIG.seed)
    drawn = []
    for _ in range(CONFIG.bootstrap):
        images = rng.integers(split.num_images, size=split.num_images).tolist()
        queries = [[value for image in images for value in values[image]] for values in terms]
        drawn.append(sum(100 * sum(some) / len(some) for some in queries))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


_WAYS = ("image-to-text", "text-to-image")


def test_run__every_interval_is_that_of_a_plain_bootstrap_over_images(
    scored: tuple[Split, Path, dict, Embeddings],
) -> None:
    split, out, result, _ = scored
    assert "resampled images" in result["interval"]
    compared = 0
    for name, task in result["tasks"].items():
        assert len(task["protocol"]) > 20
        assert task["queries"] > 0
        for metric in task["metrics"]:
            if metric.endswith("median_rank"):
                continue
            expected = _interval(split, out, name, metric)
            assert task["intervals"][metric] == pytest.approx(expected, abs=2e-4), (name, metric)
            compared += 1
    assert compared == 19
    written = json.loads((out / "metrics.json").read_text())
    assert written == {key: value for key, value in json.loads(json.dumps(result)).items() if key != "fresh"}
    assert split.name == written["split"]


def test_run__the_table_holds_every_query_and_its_best_items(scored: tuple[Split, Path, dict, Embeddings]) -> None:
    split, out, result, seen = scored
    table = pq.read_table(out / "per_query.parquet")
    assert table.schema.names == schemas.PER_QUERY.names
    rows = [row for row in table.to_pylist() if (row["task"], row["direction"]) == ("cross-modal", "text-to-image")]
    assert [row["query_key"] for row in rows] == split.caption_keys
    first = sum(row["rank"] == 1 for row in rows)
    metrics = result["tasks"]["cross-modal"]["metrics"]
    assert metrics["text-to-image/r@1"] == pytest.approx(100 * first / len(rows), abs=1e-4)
    scores = seen.text["cross"] @ seen.image["cross"].T
    for row, values in zip(rows, scores, strict=True):
        assert len(row["top_keys"]) == CONFIG.top
        assert row["top_similarities"] == pytest.approx(np.sort(values)[::-1][: CONFIG.top], abs=1e-5)
    # The query is never its own answer, however near it is to itself.
    for row in table.to_pylist():
        if row["task"] == "uni-modal":
            assert row["query_key"] not in row["top_keys"]


def test_run__up_to_date_makes_no_student_and_a_change_makes_one(tmp_path: Path) -> None:
    split = _world(tmp_path, images=4, captions=2)
    made = []

    def load() -> Seer:
        made.append(1)
        return Seer()

    def again(config: EvalConfig = CONFIG, digest: str = "1") -> bool:
        return bool(
            evaluating.run(config, load=load, student_digest=digest, split=split, out=tmp_path / "eval")["fresh"]
        )

    assert again()
    assert not again()
    assert len(made) == 1
    assert again(digest="2")
    assert again(CONFIG.model_copy(update={"ks": (1,)}), digest="2")
    assert len(made) == 3


def test_encode__each_image_and_caption_once_whatever_the_batch(tmp_path: Path) -> None:
    split = _world(tmp_path, images=7, captions=3)
    student, events = Seer(), []
    student.train()
    small = encode(student, split, CONFIG, on_event=lambda *event: events.append(event))
    assert (student.images_seen, len(student.texts_seen)) == (7, 21)
    assert student.texts_seen == split.texts
    assert student.training
    assert events[0][1] == 0
    assert events[-1][1:] == (28, 28)
    large = encode(Seer(), split, EvalConfig(batch_size=100))
    for space in ("cross", "uni"):
        np.testing.assert_allclose(small.image[space], large.image[space], atol=1e-6)
        np.testing.assert_allclose(small.text[space], large.text[space], atol=1e-6)


def test_run__without_uni_modal_heads_it_says_so(tmp_path: Path) -> None:
    result = _run(_world(tmp_path, images=4, captions=2), tmp_path / "eval", uni=False)
    assert result["tasks"]["text-to-text"]["space"] == "cross (no uni-modal head)"
    assert "neither labels nor a truth table" in result["tasks"]["image-to-image"]["unavailable"]


def test_run__numbers_that_nothing_defines_are_null_in_strict_json(tmp_path: Path) -> None:
    """With one caption an image no caption has a sibling."""
    _run(_world(tmp_path, images=4, captions=1), tmp_path / "eval")

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    written = json.loads((tmp_path / "eval/metrics.json").read_text(), parse_constant=refuse)
    assert set(written["tasks"]["text-to-text"]["metrics"].values()) == {None}
    assert set(written["tasks"]["text-to-text"]["intervals"].values()) == {None}


def test_interval__copies_of_a_caption_tell_nothing_new() -> None:
    """Captions of one image are not independent: ten of them that fare the same must not make a number surer."""
    widths = []
    for captions in (1, 10):
        image = np.repeat(np.arange(24), captions)
        hit = (image % 3 == 0).astype(float)
        low, high = intervals.of_sum(EvalConfig(bootstrap=300), [intervals.by_image(hit, image)]) or (0, 0)
        widths.append(high - low)
    assert widths[0] > 10
    assert widths[1] == pytest.approx(widths[0])


def test_validate__stays_on_the_device_the_student_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run told to train on the CPU of a machine with CUDA would lose its student to the other device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    student = Seer()
    found = evaluate.validate(student, _world(tmp_path, images=4, captions=2), CONFIG)
    assert student.mix.device.type == "cpu"
    assert found["rsum"] == pytest.approx(sum(value for name, value in found.items() if "/r@" in name))


def test_run__audited_pairs_equal_plain_loops(tmp_path: Path) -> None:
    split = _world(tmp_path, images=8, captions=3)
    before = _run(split, tmp_path / "eval")
    assert "audited" not in before["tasks"]
    (split.folder / "audit").mkdir()
    owner, captions = split.caption_owner, split.num_captions
    # Every fifth foreign pair is judged to match; images 0 and 1 are one.
    foreign = [(i, c) for i in range(8) for c in range(captions) if owner[c] != i]
    matches = [pair for pair in foreign[::5] if pair != (0, 3)]
    with Journal(split.folder / "audit") as journal:
        for number, (image, caption) in enumerate([*matches, (0, 3)]):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, "duplicate" if (image, caption) == (0, 3) else "match", **keys))
    result = _run(split, tmp_path / "eval")
    assert result["fresh"]
    true = {(int(owner[c]), c) for c in range(captions)} | set(matches)
    true |= {(1 - i, c) for i, c in true if i < 2}
    of_image = [{c for c in range(captions) if (i, c) in true} for i in range(8)]
    of_caption = [{i for i in range(8) if (i, c) in true} for c in range(captions)]
    seen = encode(Seer(), split, CONFIG)
    metrics = result["tasks"]["audited"]["metrics"]
    total = 0.0
    for direction, queries, gallery, right in (
        ("image-to-text", seen.image["cross"], seen.text["cross"], of_image),
        ("text-to-image", seen.text["cross"], seen.image["cross"], of_caption),
    ):
        places = _ranks(queries, gallery, right, itself=False)
        for k in CONFIG.ks:
            assert metrics[f"{direction}/r@{k}"] == pytest.approx(_recall(places, k), abs=1e-4)
            total += _recall(places, k)
        precision, average = _at_r(places)
        assert metrics[f"{direction}/r_precision"] == pytest.approx(precision, abs=1e-4)
        assert metrics[f"{direction}/map_at_r"] == pytest.approx(average, abs=1e-4)
    assert metrics["rsum"] == pytest.approx(total, abs=1e-3)
    assert metrics["rsum"] > result["tasks"]["cross-modal"]["metrics"]["rsum"]
    assert set(result["tasks"]["audited"]["intervals"]) >= {name for name in metrics if "median" not in name}
    assert not _run(split, tmp_path / "eval")["fresh"]


def test_run__a_second_evaluation_into_the_folder_is_refused_before_its_model_is_loaded(tmp_path: Path) -> None:
    """Both encoded everything, and the last to write won."""
    split, made, refused = _world(tmp_path, images=4, captions=2), [], []

    def second() -> Seer:
        made.append(2)
        return Seer()

    def other_thread() -> None:
        try:
            evaluating.run(CONFIG, load=second, student_digest="2", split=split, out=tmp_path / "eval")
        except BusyError as error:
            refused.append(str(error))

    def first() -> Seer:
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        return Seer()

    result = evaluating.run(CONFIG, load=first, split=split, out=tmp_path / "eval")
    assert result["fresh"]
    assert made == []
    assert len(refused) == 1
    ledger = json.loads((tmp_path / "eval/ledger.json").read_text())
    assert ledger["inputs"]["student"] == "1"


def test_run__pair_scores_that_are_no_numbers_end_in_an_error_and_leave_no_results(tmp_path: Path) -> None:
    """An SGR student whose score layer was NaN had R@1 = 100 and an RSUM of 600."""

    class Broken(Seer):
        scores_pairs = True

        def image_parts(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"image": self.encode_image(pixels)}

        def text_parts(self, tokens: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"text": self.encode_text(tokens)}

        def pair_scores(self, images: dict[str, torch.Tensor], texts: dict[str, torch.Tensor]) -> torch.Tensor:
            return float("nan") * (images["image"] @ texts["text"].T)

    split = _world(tmp_path, images=4, captions=2)
    with pytest.raises(DataError, match="32 of 32 scores .pair scores. are NaN or infinite"):
        evaluating.run(CONFIG, load=Broken, split=split, out=tmp_path / "eval")
    assert not (tmp_path / "eval/ledger.json").exists()
    with pytest.raises(DataError, match="pair scores"):
        evaluate.validate(Broken(), split, CONFIG)


class _AskedError(Exception):
    """What a stage is asked with, in place of work."""


def _stage(monkeypatch: pytest.MonkeyPatch, module: object) -> list[dict[str, Any]]:
    """Let a stage write down what it depends on and do nothing."""
    asked: list[dict[str, Any]] = []

    def begin(name: str, ledger: Path, **more: Any) -> None:
        asked.append({"name": name, "ledger": ledger, **more})
        raise _AskedError

    monkeypatch.setattr(module, "StageRun", begin)
    return asked


def test_run__depends_on_every_input_and_setting_that_is_in_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = _world(tmp_path, truth=True, images=3, captions=2)
    other = Split(split.work, "val")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a {}\n")
    asked = _stage(monkeypatch, evaluate)
    config = EvalConfig(
        **{
            "batch_size": 3,
            "ks": (1, 2),
            "block": 4,
            "top": 5,
            "rerank": 6,
            "bootstrap": 7,
            "seed": 8,
            "max_patches": 9,
            "pairs": "candidates",
        },
        **{"cache_mib": 9, "train_classes": "1-2", "templates": str(prompts), "class_names": "", "device": "cpu"},
    )
    work = {"load": Seer, "student_digest": "weights", "split": split, "out": tmp_path / "o"}

    def ask(**more: Any) -> dict[str, Any]:
        with pytest.raises(_AskedError):
            evaluating.run(config, **{**work, **more})
        return asked[-1]

    told = ask(tasks=["text-to-text", "cross-modal"], train=(other,), force=True)
    assert told == {
        "name": "eval",
        "ledger": tmp_path / "o/ledger.json",
        "inputs": {
            "student": "weights",
            "training split": other.digest,
            **Evidence.open(split).digests,
        },
        "parameters": {
            "protocol": RETRIEVAL_PROTOCOL,
            "split": "test",
            "tasks": ["cross-modal", "text-to-text"],
            **{"batch_size": 3, "ks": [1, 2], "block": 4, "top": 5, "rerank": 6, "bootstrap": 7, "seed": 8},
            **{"max_patches": 9, "pairs": "candidates"},
        },
        "force": True,
    }
    plain = ask()
    assert (plain["inputs"]["training split"], plain["force"]) == ("unknown", False)
    assert plain["parameters"]["tasks"] == sorted(
        ["cross-modal", "cross-modal-truth", "text-to-text", "image-to-image"]
    ), "what the data allow"
    read: Any = {"image": "a table"}
    with monkeypatch.context() as patched, pytest.raises(_AskedError):
        patched.setattr(features, "digests", lambda split, tables: {f"{split.name} {one}": "1" for one in tables})
        evaluate.run(config, ModelSource(Seer, "1", features=read), Evidence.open(split), Job(tmp_path / "o"))
    assert asked[-1]["inputs"]["test image"] == "1"
    rows = [
        {**row, "label": f"{colour} wall"}
        for row, colour in zip(split.samples.to_pylist(), worlds.COLOURS, strict=False)
    ]
    store.write_table(split.folder / "samples.parquet", split.samples.from_pylist(rows, schemas.SAMPLES))
    work["split"] = labelled = Split(split.work, "test")
    prompted = ask(tasks=["zero-shot"])["inputs"]
    assert prompted.keys() == {"student", "training split", "texts of zero-shot", *Evidence.open(labelled).digests}
    prompts.write_text("one {}\n")
    assert ask(tasks=["zero-shot"])["inputs"]["texts of zero-shot"] != prompted["texts of zero-shot"]


def test_run__what_a_split_has_of_training_and_lacks_of_the_official_one_is_said(tmp_path: Path) -> None:
    split = _world(tmp_path, images=3, captions=2)
    train = Split(split.work, "train")
    told = _run(split, tmp_path / "a")
    assert (told["leakage"], told["remarks"]) == (None, [])
    source = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "b", train=(train,))
    assert source["leakage"]["train"] == str(train.folder)
    assert (source["leakage"]["images"], source["leakage"]["of_images"]) == (0, 3)
    itself = evaluating.run(CONFIG, load=Seer, split=train, out=tmp_path / "c", train=(train,))
    assert itself["leakage"] is None, "what is evaluated on the training split itself is no leak"
    assert told["ids"] == store.digest(sorted(split.image_keys))
    assert (tmp_path / "a/ids.txt").read_text().split() == sorted(split.image_keys)
    assert [told[name] for name in ("student", "split", "dataset", "images", "captions", "ties")] == [
        *("seer", "test", "mini", 3, 6, evaluate.TIES),
    ]
    bare = evaluating.run(CONFIG.model_copy(update={"bootstrap": 0}), load=Seer, split=split, out=tmp_path / "d")
    assert (bare["interval"], bare["embeddings"]) == ("none", None)
    assert told["interval"].endswith("; 60 resamples, seed 0")


def test_remarks__a_cut_official_split_and_missing_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = _world(tmp_path, images=3, captions=2)
    model = Seer(uni=False)
    for official, words in ((5000, "This test split has 3 images and the official one of mini has 5,000"), (3, "")):
        monkeypatch.setattr(evaluate.datasets, "official_images", lambda name, which, number=official: number)
        found = evaluate._remarks(model, split, None, ["cross-modal"])
        assert [remark.partition(":")[0] for remark in found] == ([words] if words else [])
    for task in ("text-to-text", "image-to-image", "cxc-uni-modal"):
        (said,) = evaluate._remarks(model, split, None, [task])
        assert said.startswith("There are no uni-modal heads")
    assert evaluate._remarks(Seer(), split, None, ["text-to-text"]) == []
    leak = {"train": "w/train", "images": 0, "of_images": 3, "captions": 1, "of_captions": 6}
    (said,) = evaluate._remarks(Seer(), split, leak, [])
    assert said.startswith("Leakage: 0 of 3 images and 1 of 6 texts")
    assert evaluate._remarks(Seer(), split, {**leak, "captions": 0}, []) == []


def test_embed__texts_of_several_tasks_are_told_apart(tmp_path: Path) -> None:
    of_tasks = {"a": ["a red wall", "a blue wall"], "b": [], "c": ["a green wall"]}
    found = evaluate._embed_texts(Seer(), of_tasks, CONFIG, None, ALONE, on_event=lambda *event: None)
    for name, texts in of_tasks.items():
        expected = embed_texts(Seer(), texts, CONFIG)["cross"] if texts else np.zeros((0, 8), np.float32)
        np.testing.assert_array_equal(found[name], expected)
