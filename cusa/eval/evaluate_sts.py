"""One evaluation of a text encoder on the STS sets: what `evaluate` is to a split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.eval import sts
from cusa.eval.config import EvalConfig
from cusa.manifests import ledger, schemas, store, sts_pairs
from cusa.manifests.events import OnEvent, ignore

PROTOCOL = 1
"""Raised when a number changes its meaning."""


def is_layout(folder: Path) -> bool:
    """Tell whether a folder holds one of the STS sets."""
    return bool(sts_pairs.parts(folder))


def run(
    config: EvalConfig,
    *,
    load: Callable[[], tuple[str, str, sts.Encode]],
    encoder_digest: str,
    folder: Path,
    out: Path | None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Score a text encoder on the STS sets of a folder; write `metrics.json` and `pairs.parquet` where `out` is given.

    Args:
        config: batch size, resamples.
        load: makes the encoder: its name, its space in words, texts to unit rows. Called only if there is something to
            compute.
        encoder_digest: of its weights.
        folder: the one above `STS` and `SICK`, or `STS` itself.
        out: where the results go; None keeps none.
        force: score again even if nothing changed.
        on_event: hears of every batch.

    Returns:
        What `metrics.json` holds, and `fresh`: whether it was computed now.

    Raises:
        DataError: if the folder holds none of the sets, a file is broken, or an embedding is not finite.
    """
    clock = ledger.Clock()
    files = {part.path for part in sts_pairs.parts(folder)}
    files |= {part.scores for part in sts_pairs.parts(folder) if part.scores is not None}
    inputs = {"encoder": encoder_digest}
    inputs |= {path.relative_to(folder).as_posix(): store.sha256_file(path) for path in files if path.is_file()}
    parameters = {"protocol": PROTOCOL, **config.model_dump(mode="json", include={"bootstrap", "seed"})}
    if out is not None and not force:
        why = ledger.why_not_current(out / "ledger.json", inputs=inputs, parameters=parameters)
        if why is None:
            return {**store.read_json(out / "metrics.json"), "fresh": False}
    name, space, encode = load()
    found = sts.score(folder, encode, config, on_event=on_event)
    num_pairs = sum(len(one.gold) for one in found.values())
    values = sts.numbers(found)
    resampled = f"95 % percentile bootstrap over resampled pairs; {config.bootstrap:,} resamples, seed {config.seed}"
    result: dict[str, Any] = {
        "student": name,
        "dataset": "sts",
        "pairs": num_pairs,
        "protocol": PROTOCOL,
        "interval": resampled if config.bootstrap else "none",
        "tasks": {
            "sts": {
                "space": space,
                "protocol": sts.PROTOCOL,
                "queries": num_pairs,
                "metrics": {key: None if value != value else round(value, 4) for key, value in values.items()},
                "intervals": sts.intervals(found, config),
                "subsets": {
                    key: {subset: None if value != value else round(value, 4) for subset, value in per_subset.items()}
                    for key, one in found.items()
                    if len(per_subset := sts.subsets(one)) > 1
                },
            }
        },
    }
    if out is not None:
        store.write_json(out / "metrics.json", result)
        store.write_table(out / "pairs.parquet", _table(found))
        outputs = [out / "metrics.json", out / "pairs.parquet"]
        counts = {"pairs": num_pairs}
        clock.finish(
            out / "ledger.json", stage="eval", inputs=inputs, parameters=parameters, outputs=outputs, counts=counts
        )
    return {**result, "fresh": True}


def _table(found: dict[str, sts.SetScores]) -> pa.Table:
    tables = [
        pa.Table.from_arrays(
            [
                pa.array([name] * len(one.gold), pa.string()),
                pa.array(one.subset, pa.string()),
                pa.array(one.number, pa.int64()),
                pa.array(one.gold, pa.float64()),
                pa.array(one.cosine, pa.float32()),
            ],
            schema=schemas.STS_PAIRS,
        )
        for name, one in found.items()
    ]
    return pa.concat_tables(tables)
