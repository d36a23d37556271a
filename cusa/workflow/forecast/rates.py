"""How fast stages are: by the user's own ledgers where there are any, else by the packaged rates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import ledger
from cusa.manifests.ledger import Ledger

TYPICAL_IMAGE_BYTES = 25_000
"""Of a JPEG of some 256 pixels a side: LAION-400M's 400 M pictures at that size take 10 TB."""


@dataclass(frozen=True)
class Rate:
    """The speed of a stage, and what it leaves."""

    items: float
    """A second, of one machine."""
    source: str
    """How many items of which file it was measured on, or the machine of the packaged rates."""
    item_bytes: float | None = None
    """That an item leaves on disk; None where nobody measured."""
    memory: int | None = None
    """Bytes of the largest process; likewise."""


class OwnRates:
    """What ledgers in some folders say; of several of one stage, the one of the most items is believed.

    Args:
        folders: work folders, raw folders, runs, or what holds them.

    Raises:
        DataError: if a folder holds no ledger of a finished stage.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._best: dict[tuple[str, str], tuple[float, Rate]] = {}
        self.widths: dict[str, int] = {}
        """Teacher -> numbers a row."""
        for folder in folders:
            known = list(_ledgers(folder))
            if not known:
                raise DataError(
                    f"{folder} holds no ledger of a finished stage, so no rate. Name a work folder, a download or a "
                    "run that this machine made.",
                    path=folder,
                )
            for path, record in known:
                self._take(path, record)

    def of(self, stage: str, what: str = "") -> Rate | None:
        """Return the rate of a stage, of extractions that of a teacher; None where no ledger has it."""
        entry = self._best.get((stage, what))
        return entry[1] if entry else None

    def _take(self, path: Path, record: Ledger) -> None:
        items, what = _items(record)
        if record.stage == "extract-teachers" and isinstance(record.counts.get("width"), int):
            self.widths[what] = int(record.counts["width"])
        if items <= 0 or record.seconds <= 0:
            return
        source = f"{items:,.0f} items in {path}"
        rate = Rate(items / record.seconds, source, sum(record.outputs.values()) / items, record.peak_memory_bytes)
        before = self._best.get((record.stage, what))
        if before is None or items > before[0]:
            self._best[record.stage, what] = (items, rate)


def packaged(rates: Mapping[str, Any], cores: int, *names: str) -> Rate | None:
    """Return a packaged rate, which is one core's, for a machine of some cores; None where it was not measured."""
    value: Any = rates
    for name in names:
        value = value.get(name, {}) if isinstance(value, Mapping) else {}
    if not isinstance(value, int | float) or not value:
        return None
    return Rate(value * cores, f"{cores} x one core of {rates['machine']}")


def _ledgers(folder: Path) -> Iterator[tuple[Path, Ledger]]:
    try:
        for path in sorted(folder.rglob("*ledger.json")):
            if (record := ledger.read(path)) is not None:
                yield path, record
    except FileNotFoundError as error:
        raise DataError(
            f"--from {folder}: {error.filename} went away while the ledgers below were read. Name a folder that "
            "nobody clears meanwhile, or run the command again.",
            path=folder,
        ) from error


def _items(record: Ledger) -> tuple[float, str]:
    """Return how many items a stage worked on, and on what: a teacher's name for an extraction."""
    counts, parameters = record.counts, record.parameters
    if record.stage == "shard":
        return counts.get("images_read", 0), ""
    if record.stage == "download":
        return counts.get("kept", 0), ""  # of a table of URLs; archives are no measure of it
    if record.stage == "extract-teachers":
        whole = counts.get("computed", 0) >= 0.5 * counts.get("rows", 0)  # else most came from another table
        return counts.get("rows", 0) if whole else 0, str(parameters.get("teacher", ""))
    if record.stage == "audit":
        return counts.get("images", 0), ""
    if record.stage == "train":
        batch = parameters.get("train", {}).get("batch", 0)
        return counts.get("steps_done_now", 0) * batch, student_of(parameters.get("student", {}))
    return 0, ""


def student_of(student: Mapping[str, Any]) -> str:
    """Return what makes one student as fast as another: its kind, what it starts from, and its pictures' size."""
    return " ".join(str(student.get(key, "")) for key in ("kind", "name", "image_size", "max_patches"))
