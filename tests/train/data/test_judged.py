"""Verdicts as training input: which rows they name, and the loss of a step against loops over Python floats."""

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cusa.errors import ConfigError, StaleError
from cusa.manifests.judgements.pair_judgements import group_first
from cusa.manifests.judgements.verdicts import Journal, Verdict
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train.config import LossConfig
from cusa.train.data.judged import read_judged
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream
from cusa.train.terms import make_loss
from tests.manifests.judgements.test_verdicts import make
from tests.train.conftest import STUDENT, TRAIN, Train

LOSS = LossConfig(alpha=0, beta=0, false_negatives="positive")


def judge(split: Split, said: dict[tuple[int, int], str], start: int = 0) -> list[Verdict]:
    """Write verdicts on pairs of image row and caption row."""
    rows = [
        make(number, word, image_key=split.image_keys[image], caption_key=split.caption_keys[caption])
        for number, ((image, caption), word) in enumerate(said.items(), start)
    ]
    (split.folder / "audit").mkdir(exist_ok=True)
    with Journal(split.folder / "audit") as journal:
        for row in rows:
            journal.append(row)
    return rows


SAID = {(0, 12): "match", (4, 0): "match", (5, 3): "duplicate", (2, 30): "related", (7, 1): "no match", (8, 2): "skip"}


def test_read_judged__names_rows(own_world: Path) -> None:
    split = Split(own_world, "train")
    judge(split, SAID)
    disputed = make(50, "match", "bob", image_key=split.image_keys[7], caption_key=split.caption_keys[1])
    gone = make(51, "match", image_key="mini/gone")
    with Journal(split.folder / "audit") as journal:
        journal.append(disputed)
        journal.append(gone)
    found, digest = read_judged(split, torch.device("cpu"))
    # Caption 3 belongs to image 1 of three captions each: images 1 and 5 are one.
    assert found.first_N.tolist() == [0, 1, 2, 3, 4, 1, 6, 7, 8, 9, 10, 11]
    assert sorted(map(tuple, found.positive.tolist())) == [(0, 12), (4, 0)]
    assert sorted(map(tuple, found.ignored.tolist())) == [(2, 30), (7, 1)]
    assert "2 pairs became positives, 2 left the denominators, 1 images are one" in found.notes[0]
    assert "mini/gone" in found.notes[1]
    judge(split, {(9, 0): "match"}, start=60)
    assert read_judged(split, torch.device("cpu"))[1] != digest


def test_read_judged__a_match_of_one_duplicate_outweighs_what_is_unclear_of_the_other(own_world: Path) -> None:
    split = Split(own_world, "train")
    judge(split, {(5, 3): "duplicate", (1, 20): "match", (5, 20): "related", (5, 21): "related", (1, 22): "match"})
    pairs, _ = read_judged(split, torch.device("cpu"))
    assert sorted(map(tuple, pairs.positive.tolist())) == [(1, 20), (1, 22)]
    assert sorted(map(tuple, pairs.ignored.tolist())) == [(1, 21)]


def test_a_step_of_a_recipe_is_told_what_people_said(own_world: Path, train: Train, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    owner = split.caption_owner
    # A third of all foreign pairs is judged, so that every batch meets some.
    random = np.random.default_rng(0)
    foreign = [(i, c) for i in range(12) for c in range(36) if owner[c] != i]
    words = ["match", "related", "no match", "duplicate"]
    said = {foreign[k]: words[min(3, n // 40)] for n, k in enumerate(random.permutation(len(foreign))[:121])}
    judge(split, said)
    train(tmp_path / "run", work=own_world, loss=LOSS, train={"steps": 1, "log_every": 1})
    table = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    logged = {row["name"]: row["value"] for row in table if row["step"] == 1}
    student = students.create(STUDENT, captions=split.texts, uni=False, seed=TRAIN.seed)
    stream = PairStream(Pairs(split), Order(split.num_captions, TRAIN.batch, TRAIN.seed), student)
    batch = stream[0]
    torch.manual_seed(TRAIN.seed)
    out = student.train()(student.pixels(batch.images), dict(batch.tokens))
    image, text = (torch.nn.functional.normalize(out[name], dim=1).tolist() for name in ("image", "text"))
    same = group_first(12, [(i, int(owner[c])) for (i, c), word in said.items() if word == "duplicate"])
    temperature = float(make_loss(LOSS).infonce_temperature().detach())

    def told(i: int, j: int) -> str:
        """Return what image i of the batch and text j are to each other."""
        images, rows = batch.image_ids.tolist(), batch.rows.tolist()
        if same[images[i]] == same[images[j]]:
            return "match"
        found = {word for (one, c), word in said.items() if same[one] == same[images[i]] and c == rows[j]}
        return "match" if "match" in found else "related" if "related" in found else ""

    total, extra, size = 0.0, 0, len(image)
    for i in range(size):
        for kinds, scores in (
            (
                [told(i, j) for j in range(size)],
                [sum(map(math.prod, zip(image[i], text[j], strict=True))) for j in range(size)],
            ),
            (
                [told(j, i) for j in range(size)],
                [sum(map(math.prod, zip(image[j], text[i], strict=True))) for j in range(size)],
            ),
        ):
            norm = sum(math.exp(s / temperature) for kind, s in zip(kinds, scores, strict=True) if kind != "related")
            right = [s for kind, s in zip(kinds, scores, strict=True) if kind == "match"]
            total -= sum(s / temperature - math.log(norm) for s in right) / len(right)
    extra = sum(
        told(i, j) == "match" and same[batch.image_ids[i]] != same[batch.image_ids[j]]
        for i, j in itertools.product(range(size), repeat=2)
    )
    assert logged["infonce"] == pytest.approx(total / (2 * size), rel=1e-4)
    assert logged["extra_positives"] == pytest.approx(extra / size)


def test_a_run_belongs_to_its_verdicts(own_world: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cusa review"):
        train(tmp_path / "run", work=own_world, loss=LOSS)
    split = Split(own_world, "train")
    judge(split, SAID)
    first = train(tmp_path / "run", work=own_world, loss=LOSS, train={"steps": 2, "checkpoint_every": 1})
    assert any("2 pairs became positives" in note for note in first.notes)
    judge(split, {(9, 0): "match"}, start=60)
    with pytest.raises(StaleError, match="the verdicts"):
        train(tmp_path / "run", work=own_world, loss=LOSS, train={"steps": 4, "checkpoint_every": 1})


def test_students_that_score_pairs_are_refused(own_world: Path, train: Train, tmp_path: Path) -> None:
    split = Split(own_world, "train")
    student = students.create(STUDENT, captions=split.texts, uni=False, seed=0)
    student.scores_pairs = True
    with pytest.raises(ConfigError, match="scores"):
        train(tmp_path / "run", work=own_world, loss=LOSS, student=student)
