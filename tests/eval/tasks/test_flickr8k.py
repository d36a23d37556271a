"""Flickr8k's human judgements as a task: CLIPScore's own steps in plain loops, with scipy and scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

from cusa.eval.config import EvalConfig
from cusa.eval.encode import encode
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.pipeline import readers, shard
from cusa.pipeline.config import ShardConfig
from tests.eval import evaluating
from tests.eval.seers import Seer
from tests.eval.test_pairs import SMALL
from tests.worlds import write_flickr8k

CONFIG = EvalConfig(batch_size=8, bootstrap=200)
TASK = "flickr8k-judgements"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data set; one expert's pair has another image's caption with the words of an own one."""
    folder = write_flickr8k(tmp_path_factory.mktemp("flickr8k"), images=12)
    tokens = folder / "Flickr8k.token.txt"
    lines = tokens.read_text().splitlines()
    first = next(row for row in (folder / "ExpertAnnotations.txt").read_text().splitlines()[1:])
    image, caption = first.split("\t")[:2]
    text = next(line.partition("\t")[2] for line in lines if line.startswith(f"{image}#3\t"))
    tokens.write_text("\n".join(f"{caption}\t{text}" if line.startswith(f"{caption}\t") else line for line in lines))
    return folder


@pytest.fixture(scope="module")
def split(raw: Path) -> Split:
    shard.run(ShardConfig(workers=1), reading=readers.read("flickr8k", raw), out=raw / "work")
    return Split(raw / "work", "test")


def _rows(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text().splitlines()]


def test_judgements__are_clipscore_s_figures(raw: Path, split: Split, tmp_path: Path) -> None:
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path, flickr8k=raw, tasks=[TASK])
    task = result["tasks"][TASK]
    embedded = encode(Seer(), split, CONFIG)
    image = {row: embedded.image["cross"][at] for at, row in enumerate(split.samples["source"].to_pylist())}
    text = {row: embedded.text["cross"][at] for at, row in enumerate(split.captions["caption_id"].to_pylist())}
    words = dict(_rows(raw / "Flickr8k.token.txt"))
    own_words: dict[str, set[str]] = {}
    for name, caption in words.items():
        own_words.setdefault(name.partition("#")[0], set()).add(caption)
    left_out = 0
    for which in ("foreign", "all"):
        model, human, of_pair, median = [], [], [], []
        for name, caption, *scores in _rows(raw / "ExpertAnnotations.txt"):
            if which == "foreign" and words[caption] in own_words[name]:
                left_out += 1
                continue
            score = float(image[name] @ text[caption])
            model += [score] * 3
            human += [float(one) for one in scores]
            of_pair.append(score)
            median.append(sorted(map(int, scores))[1])
        expected = {
            "tau_c": kendalltau(model, human, variant="c").statistic,
            "average_precision": average_precision_score(np.array(median) >= 3, of_pair),
            "auc": roc_auc_score(np.array(median) >= 3, of_pair),
            "average_precision_without_error": average_precision_score(np.array(median) == 4, of_pair),
            "auc_without_error": roc_auc_score(np.array(median) == 4, of_pair),
        }
        for name, value in expected.items():
            assert task["metrics"][f"experts-{which}/{name}"] == pytest.approx(100 * value, abs=1e-3), name
        crowd = [
            (float(image[name] @ text[caption]), float(share))
            for name, caption, share, _, _ in _rows(raw / "CrowdFlowerAnnotations.txt")
            if which == "all" or words[caption] not in own_words[name]
        ]
        score_P, share_P = np.array(crowd).T
        expected = {
            "tau_b": kendalltau(score_P, share_P, variant="b").statistic,
            "average_precision": average_precision_score(share_P > 0.6, score_P),
            "auc": roc_auc_score(share_P > 0.6, score_P),
        }
        for name, value in expected.items():
            assert task["metrics"][f"crowd-{which}/{name}"] == pytest.approx(100 * value, abs=1e-3), name
        by_chance = {"average_precision": 100 * (share_P > 0.6).mean(), "auc": 50, "tau_b": 0}
        for name, value in by_chance.items():
            assert task["chance"][f"crowd-{which}/{name}"] == pytest.approx(value, abs=1e-3), name
    assert left_out == 13, "twelve of an own caption, and one whose words are those of one"
    assert len(task["metrics"]) == len(task["chance"]) == 16
    assert task["queries"] == 144
    assert "144 of the 5,822 official rows of ExpertAnnotations.txt (2.5 %)" in task["protocol"]
    for name, span in task["intervals"].items():
        assert span[0] <= task["metrics"][name] <= span[1], name


def test_judgements__the_interval_spans_what_resampled_images_give(raw: Path, split: Split, tmp_path: Path) -> None:
    """Against scipy on images drawn by another generator, written out."""
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path, flickr8k=raw, tasks=[TASK])
    embedded = encode(Seer(), split, CONFIG)
    image = {row: embedded.image["cross"][at] for at, row in enumerate(split.samples["source"].to_pylist())}
    text = {row: embedded.text["cross"][at] for at, row in enumerate(split.captions["caption_id"].to_pylist())}
    by_image: dict[str, list[tuple[float, float]]] = {}
    for name, caption, share, _, _ in _rows(raw / "CrowdFlowerAnnotations.txt"):
        by_image.setdefault(name, []).append((float(image[name] @ text[caption]), float(share)))
    rng = np.random.default_rng(5)
    values = []
    for _ in range(400):
        drawn = [pair for name in rng.choice(list(by_image), len(by_image)) for pair in by_image[str(name)]]
        values.append(100 * kendalltau(*zip(*drawn, strict=True), variant="b").statistic)
    span = result["tasks"][TASK]["intervals"]["crowd-all/tau_b"]
    assert span == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=5)


def test_judgements__part_of_the_files_and_of_the_split(raw: Path, split: Split, tmp_path: Path) -> None:
    rows = (raw / "ExpertAnnotations.txt").read_text().splitlines()
    part = tmp_path / "part"
    part.mkdir()
    (part / "ExpertAnnotations.txt").write_text("\n".join([*rows[:40], "none.jpg\tnone.jpg#0\t1\t2\t3"]))
    result = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "a", flickr8k=part)
    task = result["tasks"][TASK]
    assert {name.partition("/")[0] for name in task["metrics"]} == {"experts-foreign", "experts-all"}
    assert "41 of the 5,822 official rows" in task["protocol"]
    assert "1 judged pairs are of images or captions that the split lacks." in task["protocol"]
    (part / "ExpertAnnotations.txt").write_text("none.jpg\tnone.jpg#0\t1\t2\t3")
    changed = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "a", flickr8k=part)
    assert changed["fresh"] is True, "the files' bytes are inputs"
    assert TASK not in changed["tasks"]
    asked = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "b", flickr8k=part, tasks=[TASK])
    assert "none of the judged images" in asked["tasks"][TASK]["unavailable"]
    nothing = evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "c", tasks=[TASK])
    assert "--data FOLDER with ExpertAnnotations.txt" in nothing["tasks"][TASK]["unavailable"]
    assert TASK not in evaluating.run(CONFIG, load=Seer, split=split, out=tmp_path / "d")["tasks"]


@pytest.mark.parametrize("kind", ["sgraf", "blip"])
def test_judgements__a_student_that_needs_both_ends_scores_the_judged_pairs_alone(
    raw: Path, split: Split, tmp_path: Path, kind: str
) -> None:
    """Asked for alone, nothing is ranked; beside a ranking, the figures are the same."""
    student = students.create(SMALL.model_copy(update={"kind": kind}), captions=split.texts, uni=False, seed=0).eval()
    ranked = 0
    for name in ("pair_scores", "match"):
        if hasattr(student, name):
            original = getattr(student, name)

            def counting(*args: Any, _original: Any = original) -> Any:
                nonlocal ranked
                out = _original(*args)
                ranked += out.numel() if kind == "sgraf" else len(out)
                return out

            setattr(student, name, counting)
    config = CONFIG.model_copy(update={"rerank": 4, "bootstrap": 0})
    where = {"load": lambda: student, "split": split, "flickr8k": raw}
    alone = evaluating.run(config, out=tmp_path / "a", tasks=[TASK], **where)["tasks"][TASK]
    assert ranked == 144, "each judged pair once"
    both = evaluating.run(config, out=tmp_path / "b", tasks=["cross-modal", TASK], **where)["tasks"]
    assert alone["space"] == ("pairs" if kind == "sgraf" else "matching head's log-odds")
    assert both[TASK]["metrics"] == pytest.approx(alone["metrics"], abs=0.02)
    assert both["cross-modal"]["queries"] == 12 + 60
