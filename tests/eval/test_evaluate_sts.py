"""An evaluation on the STS sets: what it depends on, what it writes, and what of it a run has seen in training."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from cusa.eval import evaluate_sts
from cusa.eval.config import STS_PROTOCOL, EvalConfig
from cusa.eval.encode import TextModel
from cusa.eval.job import Job, ModelSource
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.worlds import make_work

CONFIG = EvalConfig(bootstrap=20, seed=3)
PAIRS = {"MSRpar": [("a red wall", "a blue wall", 1.0), ("one", "one", 5.0)], "SMTnews": [("red", "a red", 3.0)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "sets/STS/STS12-en-test"
    place.mkdir(parents=True)
    for name, pairs in PAIRS.items():
        (place / f"STS.input.{name}.txt").write_text("".join(f"{one}\t{two}\n" for one, two, _ in pairs))
        (place / f"STS.gs.{name}.txt").write_text("".join(f"{score}\n" for *_, score in pairs))
    return tmp_path / "sets"


def _encode(texts: Any) -> np.ndarray:
    rows = np.array([[len(text), text.count("e"), 1.0] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _source(*trained: Split) -> ModelSource:
    return ModelSource(lambda: TextModel("mine", _encode, {"weights": "1"}), "weights", trained)


def test_run__numbers_pairs_and_what_was_seen_in_training(folder: Path, tmp_path: Path) -> None:
    train = Split(make_work(tmp_path, images=2, captions=1, splits=("train",)), "train")
    path = folder / "STS/STS12-en-test/STS.input.SMTnews.txt"
    path.write_text(f"{train.texts[0]}\ta red\n")
    out = tmp_path / "eval"
    done = evaluate_sts.run(CONFIG, _source(train), folder, Job(out, cache=tmp_path / "kept"))
    result = done.result
    assert result["leakage"] == {"train": str(train.folder), "captions": 1, "of_captions": 5}
    assert result["remarks"][0].startswith("Leakage: 1 of 5 texts")
    assert [result[name] for name in ("student", "dataset", "pairs", "protocol")] == ["mine", "sts", 3, STS_PROTOCOL]
    assert result["interval"].endswith("; 20 resamples, seed 3")
    task = result["tasks"]["sts"]
    assert (task["space"], task["queries"], task["metrics"].keys()) == ("the model's own", 3, {"STS12"})
    assert task["subsets"]["STS12"].keys() == PAIRS.keys()
    rows = pq.read_table(out / "pairs.parquet").to_pylist()
    gold, cosine = (np.array([row[name] for row in rows]) for name in ("gold", "cosine"))
    rng = np.random.default_rng(3)
    drawn = [rng.integers(3, size=3) for _ in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which nothing is ordered
        values = [100 * spearmanr(gold[rows_], cosine[rows_]).statistic for rows_ in drawn]
    assert task["metrics"]["STS12"] == pytest.approx(100 * spearmanr(gold, cosine).statistic, abs=1e-3)
    assert task["intervals"]["STS12"] == pytest.approx(np.nanquantile(values, [0.025, 0.975]), abs=1e-3)
    texts = {("MSRpar", 1): PAIRS["MSRpar"][0], ("MSRpar", 2): PAIRS["MSRpar"][1]}
    texts["SMTnews", 1] = (train.texts[0], "a red", 3.0)
    assert len(rows) == len(texts)
    for row in rows:
        one, two, gold = texts[row["subset"], row["line"]]
        assert (row["set"], row["gold"]) == ("STS12", gold)
        assert row["cosine"] == pytest.approx(float((_encode([one]) * _encode([two])).sum()), abs=1e-6)
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(result))
    assert list((tmp_path / "kept").rglob("ledger.json"))
    again = evaluate_sts.run(CONFIG, _source(train), folder, Job(out))
    assert (again.outcome.fresh, again.result) == (False, json.loads(json.dumps(result)))


def test_run__without_a_folder_nothing_is_kept(folder: Path) -> None:
    done = evaluate_sts.run(CONFIG.model_copy(update={"bootstrap": 0}), _source(), folder, Job(None))
    assert (done.outcome.fresh, done.outcome.why, done.outcome.counts) == (True, "nothing is kept", {"pairs": 3})
    assert (done.result["interval"], done.result["leakage"], done.result["remarks"]) == ("none", None, [])


class _AskedError(Exception):
    """What a stage is asked with, in place of work."""


def test_run__depends_on_every_file_and_on_what_the_numbers_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Split(make_work(tmp_path, images=2, captions=1, splits=("train",)), "train")
    asked: list[dict[str, Any]] = []

    def begin(name: str, ledger: Path, **more: Any) -> None:
        asked.append({"name": name, "ledger": ledger, **more})
        raise _AskedError

    monkeypatch.setattr(evaluate_sts, "StageRun", begin)
    with pytest.raises(_AskedError):
        evaluate_sts.run(CONFIG, _source(train), folder, Job(tmp_path / "o", force=True))
    files = [path for path in folder.rglob("*.txt")]
    assert len(files) == 4
    assert asked == [
        {
            "name": "eval",
            "ledger": tmp_path / "o/ledger.json",
            "inputs": {
                "encoder": "weights",
                "training split": train.digest,
                **{path.relative_to(folder).as_posix(): store.sha256_file(path) for path in files},
            },
            "parameters": {"protocol": STS_PROTOCOL, "bootstrap": 20, "seed": 3},
            "force": True,
        }
    ]
