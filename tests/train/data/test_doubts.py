"""The audit's probabilities as weights of pairs: read by key, refused where there are none, used by training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.judgements.own_pairs import FOLDER, pairs_path, weights_digest
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.train.config import LossConfig
from cusa.train.data.doubts import read_pair_weights
from tests.manifests.judgements.test_verdicts import make
from tests.train.conftest import Train

LOSS = LossConfig(alpha=0, beta=0, pair_weights="audit")


def _write(split: Split, p_wrong: np.ndarray) -> None:
    order = np.argsort(-p_wrong, kind="stable")
    rows = [{"caption_key": split.caption_keys[row], "p_wrong": float(p_wrong[row])} for row in order.tolist()]
    table = pa.Table.from_pylist(rows, schema=schemas.PAIRS).replace_schema_metadata({"split": split.digest})
    store.write_table(pairs_path(split), table)


def test_read_pair_weights__one_less_p_wrong_in_the_order_of_the_captions(own_world: Path) -> None:
    split = Split(own_world, "train")
    p_wrong = np.random.default_rng(0).random(split.num_captions).astype(np.float32)
    _write(split, p_wrong)
    weights, digest, note = read_pair_weights(split, torch.device("cpu"))
    np.testing.assert_allclose(weights.numpy(), 1 - p_wrong, rtol=1e-6)
    assert digest == weights_digest(split)
    assert f"{(p_wrong > 0.5).sum()} count less than half" in note


def test_read_pair_weights__people_settle_it(own_world: Path) -> None:
    split = Split(own_world, "train")
    p_wrong = np.full(split.num_captions, 0.3, dtype=np.float32)
    _write(split, p_wrong)
    before = weights_digest(split)
    said = [
        (0, 0, "match", "ann"),  # kept
        (0, 1, "no match", "ann"),  # wrong,
        (0, 1, "no match", "bob"),
        (5, 1, "match", "ann"),  # a better caption of another image: nothing about that caption's own pair
        (1, 3, "no match", "ann"),  # disputed
        (1, 3, "match", "bob"),
        (1, 4, "skip", "ann"),
    ]
    with Journal(split.folder / FOLDER) as journal:
        for number, (image, caption, word, who) in enumerate(said):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, who, **keys))
    weights, digest, note = read_pair_weights(split, torch.device("cpu"))
    expected = 1 - p_wrong
    expected[[0, 1]] = 1, 0
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    assert digest == weights_digest(split) != before
    assert "People kept 1 pairs, which count whole, and called 1 wrong" in note


def test_run__without_an_audit_of_the_pairs_is_refused(own_world: Path, tmp_path: Path, train: Train) -> None:
    with pytest.raises(DataError, match=r"cusa audit .* --pairs"):
        train(tmp_path / "run", loss=LOSS, work=own_world)


def test_run__weights_change_the_training_and_ones_do_not(own_world: Path, tmp_path: Path, train: Train) -> None:
    split = Split(own_world, "train")
    plain = train(tmp_path / "plain", loss=LossConfig(alpha=0, beta=0), work=own_world)
    _write(split, np.zeros(split.num_captions))
    ones = train(tmp_path / "ones", loss=LOSS, work=own_world)
    _write(split, np.full(split.num_captions, 0.5))
    half = train(tmp_path / "half", loss=LOSS, work=own_world)
    assert ones.last["infonce"] == pytest.approx(plain.last["infonce"], rel=1e-6)
    assert half.last["infonce"] < 0.75 * plain.last["infonce"]


def test_config__weights_need_plain_infonce() -> None:
    with pytest.raises(ValidationError, match="pair_weights"):
        LossConfig(pair_weights="audit", reduction="release")
