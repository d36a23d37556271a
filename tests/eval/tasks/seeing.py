"""A small split as a student of given scores sees it, for tests of single tasks."""

from pathlib import Path
from typing import Any

import numpy as np

from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.scores import Table
from cusa.eval.tasks.task import Embedded
from cusa.manifests.samples import Split

CONFIG = EvalConfig(ks=(1, 3), block=2, top=3, bootstrap=50)


def see(split: Split, scores_IC: np.ndarray | None, *, uni: dict[str, Any] | None = None, **evidence: Path) -> Embedded:
    """Return what a task gets.

    Args:
        split: the split.
        scores_IC: of images with captions; None for a model of texts alone.
        uni: `image` and `text` -> rows in the uni-modal space.
        evidence: folders, as `Evidence.open` takes them.
    """
    rows = uni or {}
    return Embedded(
        config=CONFIG,
        evidence=Evidence.open(split, **evidence),
        image={"uni": rows["image"]} if "image" in rows else {},
        text={"uni": rows["text"]} if "text" in rows else {},
        scores=None if scores_IC is None else Table(scores_IC),
        score="given scores",
        uni="uni",
        uni_words="given rows",
    )
