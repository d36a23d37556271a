"""Pairs that were drawn to be asked about, in the order of the draw, in place of the audit's candidates."""

from pathlib import Path

from cusa.errors import ConfigError, DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.review.queue import Candidate, Pair, Queue


class SampledPairs:
    """A drawn sample; what machines think of its pairs is not shown, so that it sways nobody.

    Args:
        split: of the pairs.
        path: a table of `schemas.JUDGED_SAMPLE`.

    Attributes:
        sha256: of the table.

    Raises:
        DataError: if the table is missing, broken, empty, or of another state of the split.
    """

    def __init__(self, split: Split, path: Path) -> None:
        table = store.read_table(path, columns=["ask", "image_key", "caption_key"]).sort_by("ask")
        pairs = dict.fromkeys(zip(table["image_key"].to_pylist(), table["caption_key"].to_pylist(), strict=True))
        if not pairs:
            raise DataError(f"{path} has no pair: every score is decided by what is known already.", path=path)
        if not all(image in split.image_row and caption in split.caption_row for image, caption in pairs):
            raise DataError(f"{path} is of another state of the split {split.name!r}. Draw again.", path=path)
        nothing = (None,) * 6
        candidates = tuple(Candidate(*pair, *nothing) for pair in pairs)
        self._queue = Queue(candidates, len(candidates), {one.pair: place for place, one in enumerate(candidates)})
        self.sha256 = store.sha256_file(path)

    def close(self) -> None:
        """Do nothing: the table was read whole."""

    def queue(self, where: str) -> Queue:
        """Return all pairs in the order of the draw.

        Raises:
            ConfigError: if a filter is given: a filtered sample is none.
        """
        if where.strip():
            raise ConfigError("A drawn sample cannot be filtered: leave the filter empty.", key="where")
        return self._queue

    def find(self, pair: Pair) -> Candidate | None:
        """Return a pair, if it is asked about."""
        place = self._queue.places.get(pair)
        return None if place is None else self._queue.candidates[place]
