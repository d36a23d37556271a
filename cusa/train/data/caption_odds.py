"""Which caption stands for an image: the odds of its source, a pure function of seed, epoch and row. No torch here.

An image is seen as often in an epoch as it has captions. With odds, these turns are shared among its captions by
systematic sampling (Madow, 1949): the captions' odds lie one behind the other on a line, and the image's n turns are n
equally spaced points on it, shifted by one random number of the image and the epoch. So over epochs every caption comes
as often as its odds say, within an epoch to the nearest whole number, and equal odds give every caption its own turn.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cusa.errors import ConfigError, nearest
from cusa.manifests.samples import NO_SOURCE, Split, with_caption_sources
from cusa.manifests.storage import store
from cusa.train.data.permutation import GOLDEN, derive_key, scatter, unit_interval

_KEY = "train.caption_odds"


class CaptionDraw:
    """Draws a caption for each turn of an image.

    Holds 2 bytes a caption and 8 an image in memory.

    Args:
        odds: source -> odds; a source that is not named has odds 1.
        splits: in the order of their rows, as training joins them.
        shares: of the draws that each split has, their sum 1; None = by its captions.

    Attributes:
        note: what was chosen, as a sentence.

    Raises:
        ConfigError: if the odds name a source that no caption has, or leave an image without captions.
    """

    def __init__(
        self, odds: Mapping[str, float], splits: Sequence[Split], shares: Sequence[float] | None = None
    ) -> None:
        names: dict[str, int] = {}
        codes: list[np.ndarray] = []
        first: list[np.ndarray] = []
        for split in splits:
            before = sum(map(len, codes))
            of_split, starts = _read(split, names)
            codes.append(of_split)
            first.append(starts + before)
        where = ", ".join(f"{split.work} ({split.name})" for split in splits)
        self._code_C = np.concatenate(codes)
        first_I = np.concatenate(first)
        self._bounds = np.append(first_I, len(self._code_C))
        self._weight = np.array([odds.get(name, 1.0) for name in names])
        counts = dict(zip(names, np.bincount(self._code_C, minlength=len(names)).tolist(), strict=True))
        _refuse_unknown(odds, counts, where)
        weight_C = self._weight[self._code_C]
        total_I = np.add.reduceat(weight_C, first_I) if len(weight_C) else np.zeros(0)
        if none := int((total_I <= 0).sum()):
            zero = ", ".join(repr(name) for name in names if odds.get(name, 1.0) == 0)
            raise ConfigError(
                f"{_KEY}: {none:,} of {len(total_I):,} images of {where} have captions of sources with odds 0 alone "
                f"({zero}), so none can be drawn. Give these sources odds above 0, or leave the images out with "
                "`cusa shard subset --sql`.",
                key=_KEY,
            )
        chosen = ", ".join(f"{name} {weight:g}" for name, weight in zip(names, self._weight, strict=True))
        sizes = [len(of_split) for of_split in codes]
        drawn = self._expected(total_I, weight_C, sizes, shares or [size / max(sum(sizes), 1) for size in sizes])
        parts = [
            f"{name} {drawn[code]:.1%} of the draws ({counts[name] / len(weight_C):.1%} of the captions)"
            for name, code in names.items()
        ]
        self.note = f"Captions are drawn by the odds of their source ({chosen}): {'; '.join(parts)}."

    def draw(self, rows: np.ndarray, *, seed: int, epoch: int | np.ndarray) -> np.ndarray:
        """Return the caption that each turn shows.

        Args:
            rows: (n,) caption rows, each a turn of the image that owns it.
            seed: of the run.
            epoch: from 0; or of each turn the pass over its data set, (n,).

        Returns:
            (n,) int64, a caption of the same image; where all an image's captions have equal odds, the row itself.
        """
        rows = np.asarray(rows, dtype=np.int64)
        image = np.searchsorted(self._bounds, rows, side="right") - 1
        first, count = self._bounds[image], self._bounds[image + 1] - self._bounds[image]
        place = np.arange(int(count.max(initial=1)))
        inside = place < count[:, None]
        captions = np.where(inside, first[:, None] + place, 0)
        weight = np.where(inside, self._weight[self._code_C[captions]], 0.0)
        reached = weight.cumsum(axis=1)
        total = reached[:, -1]
        point = (rows - first + self._shift(image, seed, epoch)) / count * total
        chosen = (reached <= point[:, None]).sum(axis=1)
        # Rounding may put the last turn's point on the end of the line.
        last = weight.shape[1] - 1 - np.argmax(weight[:, ::-1] > 0, axis=1)
        drawn = first + np.minimum(chosen, last)
        equal = (weight == weight.max(axis=1)[:, None]).sum(axis=1) == count
        return np.where(equal, rows, drawn)

    @staticmethod
    def _shift(image: np.ndarray, seed: int, epoch: int | np.ndarray) -> np.ndarray:
        """Return a number of [0, 1) for each image, the same for all its turns of an epoch."""
        epochs, place = np.unique(epoch, return_inverse=True)
        key = np.array([derive_key(seed, "captions", one) for one in epochs.tolist()], np.uint64)[place.reshape(-1)]
        return unit_interval(scatter(key + (image.astype(np.uint64) + np.uint64(1)) * GOLDEN))

    def _expected(
        self, total_I: np.ndarray, weight_C: np.ndarray, sizes: Sequence[int], shares: Sequence[float]
    ) -> np.ndarray:
        """Return the share of the draws that each source has over many epochs."""
        counts = np.diff(self._bounds)
        # A turn's share of the draws: its split's, over the split's turns.
        turn_C = np.repeat([share / max(size, 1) for share, size in zip(shares, sizes, strict=True)], sizes)
        per_caption = weight_C * np.repeat(counts / total_I, counts) * turn_C
        drawn: np.ndarray = np.bincount(self._code_C, weights=per_caption, minlength=len(self._weight))
        return drawn


def refuse_unknown(odds: Mapping[str, float], splits: Sequence[Split]) -> None:
    """Refuse odds that name a source that no caption of any split has, before anything heavy is loaded.

    Raises:
        ConfigError: naming it, and the sources that there are.
    """
    if odds:
        CaptionDraw(odds, splits)


def _refuse_unknown(odds: Mapping[str, float], counts: Mapping[str, int], where: str) -> None:
    for name in odds:
        if name not in counts:
            known = [source for source in counts if source != NO_SOURCE]
            there = (
                f"{nearest(name, counts)}"
                if known
                else "None of them says what made it: `cusa shard ... --caption-source` names sources"
            )
            raise ConfigError(f"{_KEY}: no caption of {where} has the source {name!r}. {there}.", key=_KEY)


def _read(split: Split, names: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of each caption's source (C,) and the first caption of each image that has one (I,).

    Args:
        split: read a tar's rows at a time.
        names: source -> code; new ones are added.
    """
    codes, starts = [np.zeros(0, np.int16)], [np.zeros(0, np.int64)]
    at, last = 0, ""
    for table in _captions(split):
        source, key = (table[name].combine_chunks() for name in ("source", "key"))
        encoded = source.dictionary_encode()
        code = [names.setdefault(name or NO_SOURCE, len(names)) for name in encoded.dictionary.to_pylist()]
        codes.append(np.array(code, np.int16)[encoded.indices.to_numpy()])
        changes = pc.not_equal(key[1:], key[:-1]).to_numpy(zero_copy_only=False)
        new = np.concatenate([[key[0].as_py() != last], changes])
        starts.append(at + np.flatnonzero(new))
        at, last = at + len(key), key[-1].as_py()
    return np.concatenate(codes), np.concatenate(starts)


def _captions(split: Split) -> Iterator[pa.Table]:
    path = split.folder / "captions.parquet"
    columns: list[str] = [name for name in ("key", "source") if name in store.column_names(path)]
    for table in store.table_batches(path, columns=columns):
        if table.num_rows:
            yield with_caption_sources(table)
