"""Batches by step: images read by byte range, captions, teacher rows.

`stream[step]` depends only on the step and the files, so any number of threads or processes may compute it, and a
resumed run starts at its step.
"""

import os
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cusa.errors import CusaError, DataError
from cusa.models.features import FEATURES
from cusa.models.preprocess import UNDECODABLE, decode
from cusa.train.data.augment.augmentation import Augmentation
from cusa.train.data.batch import Batch, Substitute
from cusa.train.data.mixture.joined import AnyPairs, AnyTable
from cusa.train.data.order import Order

_CPU = torch.device("cpu")
_ATTEMPTS = 20  # stand-ins for one pair; a split where twenty in a row fail is not one to train on


class Reader(Protocol):
    """What a student does to images and captions before they are stacked."""

    def image_array(self, image: Any) -> np.ndarray:
        """Turn an RGB image, or the array of a `.npy` member, into the array that a batch stacks."""
        ...

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn captions into named (B, L) tensors."""
        ...


@dataclass(frozen=True)
class Share:
    """Which part of every step a rank reads."""

    rank: int = 0
    world: int = 1
    """Ranks that share the global batch."""
    parts: int = 1
    """Parts of a step that are computed one after another."""


ALONE = Share()
"""One rank that reads every step whole."""


@dataclass(frozen=True)
class Tables:
    """Tables whose rows a batch holds: `image` or `text` -> rows by image, or by caption."""

    teachers: Mapping[str, AnyTable] = field(default_factory=dict)
    features: Mapping[str, AnyTable] = field(default_factory=dict)
    """What the student takes in place of images or captions."""


NO_TABLES = Tables()
"""Images and captions alone."""


@dataclass(frozen=True)
class Pictures:
    """How images are read."""

    cache_bytes: int = 0
    """Memory for decoded images. Images from row 0 on are cached as far as it reaches; small data sets fit whole and
    are decoded once. 0 = no cache; nor is there one for crops, which are other ones in every epoch."""
    check_one_in: int = 0
    """Of the images that are not cached, one in so many is compared with its recorded SHA-256 when it is read, another
    one every epoch; cached ones are compared when they enter the cache. 0 = none are."""
    draft: int = 0
    """Length in pixels that both sides of a JPEG keep when it is decoded at a smaller scale; 0 = decode at full
    size."""
    augmentation: Augmentation | None = None
    """How they change from epoch to epoch; None = they do not."""


AS_THEY_ARE = Pictures()
"""Decoded whole, kept nowhere, unchanged."""


class PairStream:
    """The batches of a split, by step.

    Args:
        pairs: the rows of a split, or of several joined.
        order: the pairs of every step.
        reader: the student, for its `image_array` and `tokenize`.
        tables: whose rows a batch holds; the images or captions that a table stands for are not read.
        share: this rank's; `stream[i]` is part `i % parts` of step `i // parts`.
        pictures: how images are read.
    """

    def __init__(
        self,
        pairs: AnyPairs,
        order: Order,
        reader: Reader,
        *,
        tables: Tables = NO_TABLES,
        share: Share = ALONE,
        pictures: Pictures = AS_THEY_ARE,
    ) -> None:
        self._split = pairs.split
        assert order.pairs == self._split.num_captions, (order.pairs, self._split.num_captions)
        self._order = order
        self._reader = reader
        self._tables = tables
        self._share = share
        self._how = pictures
        self._augmentation = pictures.augmentation
        self._pairs = pairs
        crops = pictures.augmentation is not None and pictures.augmentation.config.crop
        self._cache_bytes = 0 if crops else pictures.cache_bytes
        self._cache: np.ndarray | None = None
        self._is_cached = np.zeros(0, dtype=bool)
        self._lock = threading.Lock()
        self._opened: set[str] = set()

    def __getitem__(self, index: int) -> Batch:
        """Return this rank's share of a part of a step, all counted from 0.

        Raises:
            DataError: if a tar is missing or short, an image is not the one that was sharded, or twenty pairs in a row
                cannot be decoded.
        """
        share = self._share
        step, part = divmod(index, share.parts)
        rows = self._order.rows(step, rank=share.rank, world=share.world, part=part, parts=share.parts)
        epoch = self._order.visit(step)
        pictures, substitutes = self._pictures(rows, epoch=epoch)  # first: it replaces pairs
        owners = self._pairs.owner[rows]
        image_ids = self._pairs.image_ids(owners)
        features = _rows(self._tables.features, "image", owners)
        return Batch(
            step=step,
            part=part,
            pairs=self._order.size(step, part=part, parts=share.parts),
            keys=tuple(self._pairs.caption_keys[row] for row in rows),
            images=pictures if features is None else features,
            tokens=self._tokens(rows),
            image_ids=torch.from_numpy(image_ids),
            rows=torch.from_numpy(rows),
            teacher_image=_rows(self._tables.teachers, "image", image_ids),
            teacher_text=_rows(self._tables.teachers, "text", rows),
            substitutes=tuple(substitutes),
            patches=None if self._augmentation is None else self._augmentation.kept(rows, epoch=epoch),
        )

    def _tokens(self, rows: np.ndarray) -> dict[str, Tensor]:
        features = _rows(self._tables.features, "text", rows)
        if features is not None:
            return {FEATURES: features}
        return self._reader.tokenize([self._pairs.texts[row] for row in rows])

    def _pictures(self, rows: np.ndarray, *, epoch: int) -> tuple[Tensor, list[Substitute]]:
        """Return the images of some pairs, none where a table stands for them; replace unreadable pairs in `rows`."""
        arrays: list[np.ndarray] = []
        substitutes: list[Substitute] = []
        for place, row in enumerate(rows if "image" not in self._tables.features else ()):
            array, used, failed = self._read(int(row), epoch=epoch)
            arrays.append(array)
            rows[place] = used
            substitutes += failed
        return torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0), substitutes

    def _read(self, row: int, *, epoch: int) -> tuple[np.ndarray, int, list[Substitute]]:
        """Return a pair's image array, the pair that was used in the end, and the failures before it."""
        failed: list[tuple[int, str]] = []
        used = row
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                array = self._image(int(self._pairs.owner.row(used)), row=used, epoch=epoch)
            except _UndecodableError as error:
                failed.append((used, str(error)))
                used = self._order.substitute(used, attempt)
                continue
            pairs, key = self._pairs, self._pairs.caption_keys[used]
            images = [(int(pairs.owner.row(bad)), reason) for bad, reason in failed]
            return array, used, [Substitute(pairs.image_keys[i], pairs.shard(i), why, key) for i, why in images]
        image = int(self._pairs.owner.row(row))
        raise DataError(
            f"{_ATTEMPTS} images in a row cannot be decoded, the first {self._pairs.image_keys[image]} in "
            f"{self._split.folder / self._pairs.shard(image)}: {failed[0][1]}. Make the shards again with "
            "`cusa shard ... --force`.",
            key=self._pairs.image_keys[image],
        )

    def _image(self, image: int, *, row: int, epoch: int) -> np.ndarray:
        """Return an image row as a pair of it sees it in an epoch."""
        array = self._square(image, row=row, epoch=epoch)
        if self._augmentation is None:
            return array
        return self._augmentation.changed(array, row=row, image=image, epoch=epoch)

    def _square(self, image: int, *, row: int, epoch: int) -> np.ndarray:
        if image < len(self._is_cached) and self._is_cached[image]:
            assert self._cache is not None
            cached: np.ndarray = self._cache[image]
            return cached
        data = self._bytes(image)
        try:
            decoded = decode(data, draft=self._how.draft)
            if self._augmentation is not None and self._augmentation.config.crop:
                array = self._augmentation.crop(decoded, row=row, epoch=epoch)
            else:
                array = self._reader.image_array(decoded)
        except CusaError:
            raise
        except UNDECODABLE as error:
            raise _UndecodableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        # After decoding: an image that does not decode has a stand-in; one that does and is another one has not.
        enters_cache = self._cache is None or image < len(self._is_cached)
        if self._how.check_one_in and (enters_cache or (image + epoch) % self._how.check_one_in == 0):
            self._pairs.check(image, data)
        if self._cache is None:
            with self._lock:
                self._make_room(array)
        if image < len(self._is_cached):
            self._cache[image] = array  # type: ignore[index]
            self._is_cached[image] = True  # last, so that another thread reads the array whole
        return array

    def _bytes(self, image: int) -> bytes:
        shard = self._pairs.shard(image)
        if shard in self._opened:
            return self._pairs.image_bytes(image)
        with self._lock:  # the first read of a tar opens it: once, whichever thread comes first
            data = self._pairs.image_bytes(image)
            self._opened.add(shard)
            return data

    def _make_room(self, first: np.ndarray) -> None:
        if self._cache is None:
            rows = min(self._split.num_images, self._cache_bytes // first.nbytes)
            cache = np.empty((rows, *first.shape), dtype=first.dtype)  # pages are taken as they are filled
            self._is_cached = np.zeros(rows, dtype=bool)
            self._cache = cache

    def __getstate__(self) -> dict[str, object]:
        return {
            **self.__dict__,
            "_lock": None,
            "_cache": None,
            "_is_cached": np.zeros(0, dtype=bool),
            "_opened": set[str](),
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _rows(tables: Mapping[str, AnyTable], modality: str, rows: np.ndarray) -> Tensor | None:
    """Return some rows of the table of a modality; None where there is none."""
    table = tables.get(modality)
    return None if table is None else torch.from_numpy(table[rows])


class _UndecodableError(Exception):
    """The bytes of an image are no whole image."""


def available_threads(device: torch.device = _CPU) -> int:
    """Return the default number of reading threads.

    On a CPU half the cores, as the other half computes, 8 at most. Beside an accelerator all cores but the one that
    queues its work, shared by the ranks of this machine, 32 at most: so many, and the interpreter's lock is what they
    wait for.

    Args:
        device: where the student computes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return max(1, min(8, cores // 2))
    return max(1, min(32, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def batches(
    stream: PairStream, start: int, stop: int, *, threads: int = 1, ahead: int = 4
) -> Generator[Batch, None, None]:
    """Yield `stream[start]` to `stream[stop - 1]` in order, computed ahead of time by threads.

    Threads and not processes: decoding and resizing release the interpreter's lock, the cached images are shared, and
    nothing is copied between processes. The number of threads does not change the batches.

    Args:
        stream: the stream.
        start: the first.
        stop: the one after the last.
        threads: how many; 0 = none, each batch is computed when the caller takes it.
        ahead: batches computed ahead at most.

    Raises:
        CusaError: whatever a batch raised, at its step.
    """
    todo = iter(range(start, stop))
    if threads == 0:
        for step in todo:
            yield stream[step]
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cusa-stream")
    try:
        pending = deque(pool.submit(stream.__getitem__, step) for step in islice(todo, max(ahead, threads)))
        while pending:
            batch = pending.popleft().result()
            pending.extend(pool.submit(stream.__getitem__, step) for step in islice(todo, 1))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
