"""Runs made of numbers, for sections that need no evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.eval.report.runs import Run
from cusa.manifests import schemas
from cusa.manifests.ledger import Ledger

EVALUATED = Ledger("eval", {}, {"ks": [1, 5, 10]}, {}, {}, 1.0, 1, {"torch": "2"})


def made_run(name: str, tasks: Mapping[str, Mapping[str, float]], *, recipe: Mapping[str, Any] | None = None) -> Run:
    """Return a run with these metrics by task."""
    results = {
        task: {"protocol": "by hand", "space": "cross", "queries": 1234, "metrics": metrics}
        for task, metrics in tasks.items()
    }
    result = {
        "dataset": "d", "split": "test", "images": 2, "captions": 4, "student": "s", "protocol": 1, "tasks": results,
    }  # fmt: skip
    per_query = schemas.PER_QUERY.empty_table()
    assert isinstance(per_query, pa.Table)
    return Run(Path("nowhere") / name, name, recipe or {}, result, per_query, None, EVALUATED)
