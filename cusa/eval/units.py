"""What of an evaluation other processes can do: embeddings of some rows, and the ranking of some queries.

Embeddings go to the folder of kept ones, a file a unit, whole or absent: so whoever comes next goes on from there.
Rankings are made in whole blocks of queries: what is multiplied at once decides a score's last digits.

Legend: Q queries, G gallery items, K kept per query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cusa.eval.cache import EmbeddingCache
from cusa.eval.config import EvalConfig
from cusa.eval.ranking import Ranking, ScoreBlocks, Truth, rank_by_each
from cusa.manifests.samples import Split

if TYPE_CHECKING:
    from cusa.eval.encode import Modality, TextModel
    from cusa.models.students.base import Student

_ROWS = 1024  # of a unit of embeddings, about: a teacher's worth of seconds


@dataclass(frozen=True)
class EncodeUnit:
    """Some distinct contents of a split.

    Attributes:
        modality: `image` or `text`.
        rows: the split's rows where they stand first.
    """

    modality: "Modality"
    rows: tuple[int, ...]


def encode_units(model: "Student | TextModel", split: Split, config: EvalConfig) -> list[EncodeUnit]:
    """Cut the distinct contents of a split into units of whole batches, images first.

    Rows that a student takes from a table of the split are in none: they are not kept.

    Args:
        model: what embeds.
        split: the split.
        config: batch size.
    """
    from cusa.eval.encode import TextModel, contents, reads_table

    size = config.batch_size * max(1, _ROWS // config.batch_size)
    units = []
    modalities: list[Modality] = ["image", "text"]
    for modality, every in zip(modalities, contents(split), strict=True):
        if modality == "image" if isinstance(model, TextModel) else reads_table(model, split, modality):
            continue
        first: dict[bytes, int] = {}
        for row, content in enumerate(every):
            first.setdefault(content, row)
        rows = tuple(first.values())
        units += [EncodeUnit(modality, rows[start : start + size]) for start in range(0, len(rows), size)]
    return units


def missing(units: Sequence[EncodeUnit], split: Split, spaces: Sequence[str], cache: EmbeddingCache) -> list[int]:
    """Return the numbers of the units of which a row is not kept in every space."""
    from cusa.eval.encode import contents

    every = dict(zip(("image", "text"), contents(split), strict=True))
    known: dict[str, set[bytes]] = {}
    for modality in {unit.modality for unit in units}:
        distinct = list(dict.fromkeys(every[modality]))
        places, rows = cache.read(modality, distinct)
        known[modality] = {distinct[place] for place in places} if set(rows) >= set(spaces) else set()
    return [
        number
        for number, unit in enumerate(units)
        if not known[unit.modality].issuperset(every[unit.modality][row] for row in unit.rows)
    ]


def encode_unit(
    model: "Student | TextModel", split: Split, config: EvalConfig, unit: EncodeUnit, cache: EmbeddingCache
) -> None:
    """Embed the contents of a unit and keep them.

    Raises:
        DataError: if an image does not decode, or an embedding is not finite.
    """
    from cusa.eval.encode import contents, embed_rows

    rows = embed_rows(model, split, config, unit.modality, unit.rows)
    every = contents(split)[unit.modality == "text"]
    cache.write(unit.modality, [every[row] for row in unit.rows], rows)


@dataclass(frozen=True)
class Ranked:
    """What the units of a ranking share.

    Attributes:
        queries: (Q, D).
        gallery: (G, D).
        block: queries at a time, at most.
        right: for each truth, the right gallery rows of all queries, one query after the other.
        bounds: for each truth, (Q + 1,) where each query's begin, and the end.
        num_right: for each truth, see `Truth`; (0,) where it has none.
        at_r: for each truth, see `Truth`.
        exclude: (Q,) the gallery row that is the query itself, or (0,).
        top: K.
    """

    queries: np.ndarray
    gallery: np.ndarray
    block: int
    right: tuple[np.ndarray, ...]
    bounds: tuple[np.ndarray, ...]
    num_right: tuple[np.ndarray, ...]
    at_r: tuple[bool, ...]
    exclude: np.ndarray
    top: int

    @classmethod
    def of(cls, blocks: ScoreBlocks, truths: Sequence[Truth], exclude: np.ndarray | None, top: int) -> "Ranked":
        """Return what a call of `rank_by_each` is about, as arrays."""
        nothing = np.empty(0, np.int64)
        return cls(
            blocks.query_QD,
            blocks.gallery_GD,
            blocks.size,
            tuple(np.concatenate([nothing, *truth.relevant]).astype(np.int64) for truth in truths),
            tuple(np.cumsum([0, *map(len, truth.relevant)]).astype(np.int64) for truth in truths),
            tuple(nothing if truth.num_right is None else truth.num_right for truth in truths),
            tuple(truth.at_r for truth in truths),
            nothing if exclude is None else exclude,
            top,
        )

    def units(self) -> list[range]:
        """Return the queries of each unit: a block."""
        number = len(self.queries)
        return [range(start, min(start + self.block, number)) for start in range(0, number, self.block)]


def rank_some(ranked: Ranked, rows: range) -> pa.Table:
    """Rank the gallery for some queries; products on one thread, as their last digits depend on how threads share."""
    from threadpoolctl import threadpool_limits

    some = slice(rows.start, rows.stop)
    truths = [
        Truth(
            [right[start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)],
            num_right[some] if len(num_right) else None,
            at_r,
        )
        for right, bounds, num_right, at_r in zip(
            ranked.right,
            (bounds[rows.start : rows.stop + 1] for bounds in ranked.bounds),
            ranked.num_right,
            ranked.at_r,
            strict=True,
        )
    ]
    blocks = ScoreBlocks(ranked.queries[some], ranked.gallery, ranked.block)
    exclude = ranked.exclude[some] if len(ranked.exclude) else None
    with threadpool_limits(1, user_api="blas"):
        rankings = rank_by_each(iter(blocks), truths, exclude=exclude, top=ranked.top)
    columns = {}
    for number, ranking in enumerate(rankings):
        for field in fields(Ranking):
            values = getattr(ranking, field.name)
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            wide = values.ndim == 2
            columns[f"{field.name} {number}"] = (
                pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if wide else flat
            )
    return pa.table(columns)


def read_parts(tables: Sequence[pa.Table], truths: int, top: int) -> list[Ranking]:
    """Return the rankings of all queries.

    Args:
        tables: the parts in their order, at least one.
        truths: how many truths there are.
        top: K.
    """
    whole = pa.concat_tables(tables).combine_chunks()

    def column(name: str) -> np.ndarray:
        values = whole[name].combine_chunks()
        if pa.types.is_fixed_size_list(values.type):
            return np.asarray(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, top))
        return np.asarray(values.to_numpy(zero_copy_only=False))

    return [Ranking(*(column(f"{field.name} {number}") for field in fields(Ranking))) for number in range(truths)]
