"""What is known of each row, for other tools: counted and chosen again by plain loops over the tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import DataError
from cusa.integrations import rows
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.neighbours import read_neighbours
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.audited import make_taught

SAID = {(0, 12): "match", (0, 20): "no match", (5, 12): "duplicate", (7, 1): "related", (7, 2): "match"}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    split = Split(make_taught(tmp_path_factory.mktemp("rows"), images=12, neighbours=6, captions=3), "train")
    (split.folder / "audit").mkdir()
    with Journal(split.folder / "audit") as journal:
        for number, ((image, caption), word) in enumerate(SAID.items()):
            keys = {"image_key": split.image_keys[image], "caption_key": split.caption_keys[caption]}
            journal.append(make(number, word, **keys))
    audit.run(AuditConfig(neighbours=4, gallery=0, shipped=False), split=split)
    return split


def _with_probabilities(split: Split, share: float) -> list[dict[str, Any]]:
    """Give a share of the candidates a probability, equal ones among them; return all, in the table's order."""
    path = split.folder / "audit/candidates.parquet"
    table = pq.read_table(path)
    rng = np.random.default_rng(0)
    p = [float(rng.integers(0, 4)) / 4 if rng.random() < share else None for _ in range(table.num_rows)]
    at = table.column_names.index("p_positive")
    table = table.set_column(at, table.schema.field(at), pa.array(p, pa.float32()))
    store.write_table(path, table)
    return table.to_pylist()


def _best(candidates: list[dict[str, Any]], key: str, wanted: str) -> tuple[int, dict[str, Any] | None]:
    """Return how many candidates a row has, and the best: any probability before a score, the first of equals."""
    mine = [row for row in candidates if row[key] == wanted]
    by_p = [row for row in mine if row["p_positive"] is not None]
    if by_p:
        return len(mine), max(by_p, key=lambda row: row["p_positive"])
    return len(mine), max(mine, key=lambda row: row["score"]) if mine else None


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_known__every_column_by_plain_loops(split: Split, share: float) -> None:
    candidates = _with_probabilities(split, share)
    images, captions = rows.of_images(split), rows.of_captions(split)
    assert list(images.columns["key"]) == split.image_keys
    assert list(images.columns["captions"]) == ["\n".join(split.texts[3 * n : 3 * n + 3]) for n in range(12)]
    for name in ("width", "height", "label"):
        assert list(images.columns[name]) == split.samples[name].to_pylist()
    assert list(captions.columns["caption_key"]) == split.caption_keys
    assert list(captions.columns["text"]) == split.texts
    assert list(captions.columns["image_key"]) == [split.image_keys[row // 3] for row in range(36)]
    for known, key, keys, other in (
        (images, "image_key", split.image_keys, "caption_key"),
        (captions, "caption_key", split.caption_keys, "image_key"),
    ):
        for row, own in enumerate(keys):
            number, best = _best(candidates, key, own)
            assert known.columns["candidates"][row] == number
            offered = "" if best is None else best[other]
            if key == "image_key" and offered:
                offered = split.texts[split.caption_row[offered]]
            assert known.columns["best_candidate"][row] == offered
            assert known.columns["best_score"][row] == (best and best["score"])
            assert known.columns["best_p_positive"][row] == (best and best["p_positive"])
            words = [word for pair, word in SAID.items() if pair[key == "caption_key"] == row]
            assert known.columns["verdicts"][row] == ", ".join(sorted(words))
            assert known.columns["judged_matches"][row] == sum(word in ("match", "duplicate") for word in words)
    for known, teacher in ((images, "colours"), (captions, "words")):
        near = read_neighbours(split, teacher, depth=6)
        assert (known.teacher, known.notes) == (teacher, ())
        assert [one["ids"] for one in known.neighbours] == near.ids.tolist()
        far = [one["distances"] for one in known.neighbours]
        np.testing.assert_allclose(far, np.maximum(1 - near.similarities, 0), atol=1e-7)
    table = rows.table(images, {"more": list(range(12))})
    assert table.column_names == [*images.columns, "more"]
    assert table["key"].to_pylist() == split.image_keys


def test_known__neighbours_are_fifteen_at_most(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows.DEPTH == 15
    monkeypatch.setattr(rows, "DEPTH", 2)
    assert {len(one["ids"]) for one in rows.of_images(split).neighbours} == {2}


def test_known__a_candidate_that_the_split_lacks_is_refused(tmp_path: Path) -> None:
    split = Split(make_taught(tmp_path, images=4, captions=2), "train")
    audit.run(AuditConfig(neighbours=3, gallery=0, shipped=False), split=split)
    path = split.folder / "audit/candidates.parquet"
    table = pq.read_table(path)
    names = ["mini/gone", *table["image_key"].to_pylist()[1:]]
    store.write_table(path, table.set_column(0, table.schema.field(0), pa.array(names)))
    with pytest.raises(DataError, match=r"names 'mini/gone', which the split does not have\. Run `cusa audit"):
        rows.of_images(split)


@pytest.mark.parametrize("rows_", [np.eye(1, 5), np.zeros((3, 4)), np.eye(2)])
def test_principal_components__of_hardly_anything_are_finite(rows_: np.ndarray) -> None:
    plane = rows.principal_components(rows_.astype(np.float32))
    assert plane.shape == (len(rows_), 2)
    assert plane.dtype == np.float32
    assert np.isfinite(plane).all()
