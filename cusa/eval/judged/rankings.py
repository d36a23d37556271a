"""What a comparison reads: two runs' rankings, what is known of their pairs, and the machine judge."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cusa.errors import DataError
from cusa.eval.judged.pool import NONE, KnownPairs
from cusa.manifests.judgements import pair_judgements
from cusa.manifests.judgements.pair_judgements import DISPUTED, Judgements
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

TASK = "cross-modal"
"""The task whose rankings are compared: all images with all captions."""
_DIRECTIONS = ("image-to-text", "text-to-image")


def read_ranking(split: Split, path: Path) -> dict[str, np.ndarray]:
    """Return the first places of every query: direction -> (Q, K) gallery rows, `NONE` where there is no item.

    Args:
        split: that was ranked.
        path: `per_query.parquet` of an evaluation.

    Raises:
        DataError: if the file lacks the task or is of another split.
    """
    table = store.read_table(path, columns=["task", "direction", "query_key", "top_keys"], made_by="cusa eval RUN")
    keys = {"image": split.image_keys, "text": split.caption_keys}
    tops = {}
    for way in _DIRECTIONS:
        source, target = way.split("-to-")
        some = table.filter(pc.and_(pc.equal(table["task"], TASK), pc.equal(table["direction"], way)))
        if some["query_key"].to_pylist() != list(keys[source]):
            raise DataError(
                f"{path} has no ranking of the whole split {split.name!r} ({TASK}, {way}). Run `cusa eval` again.",
                path=path,
            )
        lists = some["top_keys"].combine_chunks()
        rows = pc.index_in(lists.flatten(), value_set=pa.array(keys[target], pa.string()))
        if rows.null_count:
            raise DataError(
                f"{path} names items that the split {split.name!r} has not. Run `cusa eval` again.", path=path
            )
        counts = np.diff(np.asarray(lists.offsets))
        top = np.full((len(lists), int(counts.max(initial=0))), NONE, np.int64)
        top[np.arange(top.shape[1]) < counts[:, None]] = np.asarray(rows)
        tops[way] = top
    return tops


def known_pairs(split: Split, judgements: Judgements) -> KnownPairs:
    """Return the pairs that are true by the data set or by verdicts, and those that are not by verdicts."""
    pairs = pair_judgements.true_pairs(split, judgements)
    matches = pairs[:, 0] * split.num_captions + pairs[:, 1]
    others = [
        split.image_row[one.image_key] * split.num_captions + split.caption_row[one.caption_key]
        for one in judgements.judgements
        if not one.positive and one.verdict != DISPUTED
    ]
    return KnownPairs(np.unique(matches), np.setdiff1d(np.array(others, np.int64), matches))


def passed_pairs(split: Split, judgements: Judgements) -> np.ndarray:
    """Return the codes of pairs that people were asked about without an answer: skipped, or disputed."""
    pairs = [*judgements.skipped, *judgements.pairs(DISPUTED)]
    return np.array(
        [
            split.image_row[image] * split.num_captions + split.caption_row[caption]
            for image, caption in pairs
            if image in split.image_row and caption in split.caption_row
        ],
        np.int64,
    )


class Judge(NamedTuple):
    """The machine judge.

    Attributes:
        codes: of the pairs it knows (image row times captions, plus caption row), sorted.
        probabilities: of each.
        calibrated: whether they are probabilities of people's answers; else similarity scores stand in for them.
    """

    codes: np.ndarray
    probabilities: np.ndarray
    calibrated: bool


def read_judge(split: Split) -> Judge:
    """Return the audit's word on its candidates.

    Raises:
        DataError: if the split was not audited.
    """
    path = split.folder / "audit" / "candidates.parquet"
    made_by = f"cusa audit {split.work} --split {split.name}"
    if not path.is_file():
        raise DataError(f"{path} does not exist: there is no machine judge. Run `{made_by}`.", path=path)
    table = store.read_table(path, columns=["image_key", "caption_key", "p_positive", "score"], made_by=made_by)
    images = pc.index_in(table["image_key"], value_set=pa.array(split.image_keys, pa.string()))
    captions = pc.index_in(table["caption_key"], value_set=pa.array(split.caption_keys, pa.string()))
    if images.null_count or captions.null_count:
        raise DataError(f"{path} is of another state of the split {split.name!r}. Run `{made_by}` again.", path=path)
    codes = images.to_numpy().astype(np.int64) * split.num_captions + captions.to_numpy()
    calibrated = bool(len(table)) and table["p_positive"].null_count == 0
    chosen = table["p_positive" if calibrated else "score"].to_numpy().astype(float)
    order = np.argsort(codes, kind="stable")
    return Judge(codes[order], np.clip(chosen[order], 0.0, 1.0), calibrated)
