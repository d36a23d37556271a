"""A small world with teacher and neighbour tables, for the tests of the audit and of SQL."""

from pathlib import Path
from typing import Any

from cusa.manifests.samples import Split
from cusa.pipeline import extract, index
from cusa.pipeline.config import ExtractConfig, IndexConfig
from tests.worlds import Colours, Words, make_work


def load(name: str, modality: str) -> Any:
    """Return a teacher of the test worlds."""
    return {"colours": Colours, "words": Words}[name]()


def teach(work: Path, *, split: str = "train", neighbours: int = 4, **teachers: str) -> Path:
    """Extract and index `image=` and `text=` teachers of one split."""
    for modality, name in teachers.items():
        extract.run(ExtractConfig(), split=Split(work, split), teacher=name, modality=modality, load=load)
        index.run(IndexConfig(neighbours=neighbours), split=Split(work, split), teacher=name)
    return work


def make_taught(folder: Path, *, images: int = 12, neighbours: int = 4, **world: Any) -> Path:
    """Draw, shard, embed and index a world of one split; return the work folder."""
    work = make_work(folder, images=images, splits=("train",), **world)
    return teach(work, neighbours=neighbours, image="colours", text="words")
