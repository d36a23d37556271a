"""What is known of a work folder: the numbers of its data card."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests import datasets
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store


@dataclass(frozen=True)
class SplitFacts:
    """One split; what was never measured is None."""

    name: str
    images: int
    captions: int
    bytes: int
    """Of its pictures."""
    drops: dict[tuple[str, str], int] = field(default_factory=dict)
    """Kind (image or caption) and reason -> rows that were refused."""
    copies: int = 0
    """Images whose bytes another image of the work folder has too."""
    audit: dict[str, Any] | None = None
    """The summary of `cusa audit`."""
    own_pairs: dict[str, Any] | None = None
    """The summary of `cusa audit --pairs`."""
    sources: dict[str, int] = field(default_factory=dict)
    """What made captions -> how many it made; empty where nobody says."""

    @property
    def expected_false_negatives(self) -> float | None:
        """Matches that the data set does not list, as the audit estimates them; None without a calibration."""
        likely = (self.audit or {}).get("likely")
        return float(likely["total"]) if likely else None


@dataclass(frozen=True)
class Facts:
    """A work folder."""

    name: str
    """What its keys begin with."""
    title: str
    licence: str
    homepage: str
    splits: list[SplitFacts]

    @property
    def images(self) -> int:
        """Images of all splits."""
        return sum(split.images for split in self.splits)


def gather(work: Path, *, name: str = "", licence: str = "", url: str = "") -> Facts:
    """Read what a work folder's tables and summaries say.

    Args:
        work: the work folder.
        name: what to call the data; by its keys if empty.
        licence: its terms; of a data set that the package knows, by its manifest if empty.
        url: where it lies; likewise.
    """
    names = splits(work)
    first = store.read_table(work / names[0] / "samples.parquet", columns=["key"])["key"]
    dataset = str(first[0].as_py()).partition("/")[0] if len(first) else work.name
    known = datasets.load(dataset) if dataset in datasets.names() else None
    copies = Counter[str]()
    if (work / "duplicates.parquet").is_file():
        copies.update(store.read_table(work / "duplicates.parquet", columns=["split"])["split"].to_pylist())
    return Facts(
        name or dataset,
        known.title if known else name or dataset,
        licence or (known.licence if known else ""),
        url or (known.homepage if known else ""),
        [_of_split(Split(work, split), copies[split]) for split in names],
    )


def _of_split(split: Split, copies: int) -> SplitFacts:
    drops = Counter[tuple[str, str]]()
    if (split.folder / "drops.parquet").is_file():
        for table in store.table_batches(split.folder / "drops.parquet", columns=["kind", "reason"]):
            drops.update(zip(table["kind"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return SplitFacts(
        split.name,
        split.num_images,
        split.num_captions,
        sum(split.samples["image_bytes"].to_pylist()),
        dict(sorted(drops.items())),
        copies,
        _summary(split.folder / "audit" / "summary.json"),
        _summary(split.folder / "audit" / "pairs" / "summary.json"),
        {source: len(rows) for source, rows in split.source_rows.items()},
    )


def _summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of a stage that ran; None if it did not, or left nothing that can be read."""
    try:
        summary = store.read_json(path)
    except DataError:
        return None
    return summary if isinstance(summary, dict) else None
