"""The table of a split's own pairs: read only for the state of the split that it was made of, and only whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cusa.errors import DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.judgements.own_pairs import IN_WORDS, pairs_digest, pairs_path, read_p_wrong, weights_digest
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from tests.manifests.judgements.test_verdicts import make
from tests.worlds import make_work


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(make_work(tmp_path, images=2, splits=("train",), captions=2), "train")


def _write(split: Split, keys: Sequence[str], p_wrong: Sequence[float | None], *, state: str = "") -> None:
    rows = [{"caption_key": key, "p_wrong": value} for key, value in zip(keys, p_wrong, strict=True)]
    table = pa.Table.from_pylist(rows, schema=schemas.PAIRS)
    store.write_table(pairs_path(split), table.replace_schema_metadata({"split": state or split.digest}))


def test_read_p_wrong__in_the_order_of_the_captions(split: Split) -> None:
    _write(split, split.caption_keys[::-1], [0.75, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(read_p_wrong(split), np.array([0.0, 0.25, 0.5, 0.75], dtype=np.float32))


def test_read_p_wrong__of_another_state_of_the_split_is_stale(split: Split) -> None:
    _write(split, split.caption_keys, [0.1] * 4, state="0" * 64)
    with pytest.raises(StaleError, match="of another state of the split 'train'.* --pairs"):
        read_p_wrong(split)


def test_read_p_wrong__a_table_that_lacks_anything_is_refused(split: Split) -> None:
    with pytest.raises(DataError, match="nobody has looked for wrong pairs"):
        read_p_wrong(split)
    _write(split, split.caption_keys[:3], [0.1] * 3)
    with pytest.raises(DataError, match="not one row for each of 4 pairs"):
        read_p_wrong(split)
    _write(split, [*split.caption_keys[:3], "mini/other#0"], [0.1] * 4)
    with pytest.raises(DataError, match="not one row for each of 4 pairs"):
        read_p_wrong(split)
    _write(split, split.caption_keys, [0.1, 0.2, None, 0.3])
    with pytest.raises(DataError, match="too small to tell wrong pairs"):
        read_p_wrong(split)


def test_pairs_digest__is_that_of_the_bytes(split: Split) -> None:
    _write(split, split.caption_keys, [0.1] * 4)
    before = pairs_digest(split)
    _write(split, split.caption_keys, [0.1, 0.1, 0.1, 0.2])
    assert pairs_digest(split) != before


def test_weights_digest__of_the_table_and_of_the_verdicts_on_own_pairs(split: Split) -> None:
    with pytest.raises(DataError, match=r"Run `cusa audit .*work --pairs --split train`"):
        weights_digest(split)
    _write(split, split.caption_keys, [0.1] * 4)
    nobody = weights_digest(split)
    assert nobody == store.digest([pairs_digest(split), store.digest([])])
    keys = {"image_key": split.image_keys[0], "caption_key": split.caption_keys[1]}
    with Journal(split.folder / "audit") as journal:
        journal.append(make(1, "no match", **keys))
    assert weights_digest(split) == nobody, "verdicts on candidates lie elsewhere"
    with Journal(pairs_path(split).parent) as journal:
        journal.append(make(1, "no match", **keys))
    said = weights_digest(split)
    assert said != nobody
    _write(split, split.caption_keys, [0.2] * 4)
    assert weights_digest(split) not in (said, nobody)


def test_pairs_path__and_the_words_for_every_fault(split: Split) -> None:
    assert pairs_path(split) == split.folder / "audit/pairs/pairs.parquet"
    assert all(words and not words.endswith(".") for words in IN_WORDS.values())
    assert len(set(IN_WORDS.values())) == len(IN_WORDS)
    evidence = {"sibling_mean", "sibling_best", "caption_neighbours", "image_neighbours", "cross_modal"}
    of_captions = {"repeated", "boilerplate", "too-short", "markup", "language"}
    of_pictures = {"duplicate", "broken", "blank", "dark", "bright", "blurred", "tiny", "odd-aspect"}
    assert IN_WORDS.keys() == evidence | of_captions | of_pictures
    assert evidence < {*schemas.PAIRS.names}
