"""One evaluation of a text encoder on the STS sets: what `evaluate` is to a split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.eval import leakage
from cusa.eval.cache import EmbeddingCache
from cusa.eval.config import EvalConfig
from cusa.eval.share import ALONE, Share
from cusa.eval.tasks import sts
from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import sts_pairs
from cusa.manifests.samples import Split
from cusa.manifests.stage import StageRun
from cusa.manifests.storage import store

if TYPE_CHECKING:
    from cusa.eval.encode import TextModel
    from cusa.models.students.base import Student

PROTOCOL = 1
"""Raised when a number changes its meaning."""


def is_layout(folder: Path) -> bool:
    """Tell whether a folder holds one of the STS sets."""
    return bool(sts_pairs.parts(folder))


def run(
    config: EvalConfig,
    *,
    load: Callable[[], "Student | TextModel"],
    encoder_digest: str,
    folder: Path,
    out: Path | None,
    train: Split | None = None,
    cache: Path | None = None,
    share: Share = ALONE,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Score a text encoder on the STS sets of a folder; write `metrics.json` and `pairs.parquet` where `out` is given.

    Args:
        config: batch size, resamples.
        load: makes the encoder; called only if there is something to compute.
        encoder_digest: of its weights.
        folder: the one above `STS` and `SICK`, or `STS` itself.
        out: where the results go; None keeps none.
        train: what the encoder was trained on, where that is known, to count what it has seen before.
        cache: folder of embeddings kept for the next evaluation; None keeps none.
        share: the ranks that evaluate together.
        force: score again even if nothing changed.
        on_event: hears of every batch.

    Returns:
        What `metrics.json` holds, and `fresh`: whether it was computed now.

    Raises:
        DataError: if the folder holds none of the sets, a file is broken, or an embedding is not finite.
    """
    files = {part.path for part in sts_pairs.parts(folder)}
    files |= {part.scores for part in sts_pairs.parts(folder) if part.scores is not None}
    inputs = {"encoder": encoder_digest}
    inputs |= {path.relative_to(folder).as_posix(): store.sha256_file(path) for path in files if path.is_file()}
    inputs["training split"] = "unknown" if train is None else train.digest
    parameters = {"protocol": PROTOCOL, **config.model_dump(mode="json", include={"bootstrap", "seed"})}

    stage = None
    if out is not None:
        stage = StageRun("eval", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)

    def kept() -> dict[str, Any] | None:
        return store.read_json(stage.out / "metrics.json") if stage is not None and stage.up_to_date else None

    if (old := share.agree(kept)) is not None:
        return {**old, "fresh": False}
    from cusa.eval.encode import cache_key, embed_texts

    model = load()
    space, words = model.space_of("uni-modal")
    rows = None
    if cache is not None and config.cache_mib:
        rows = EmbeddingCache(cache, cache_key(model, config), limit=config.cache_mib << 20)

    def encode(texts: Sequence[str]) -> np.ndarray:
        found = embed_texts(
            model,
            texts,
            config,
            cache=rows,
            share=share,
            on_done=lambda done: on_event("encode sts", done, len(texts)),
        )
        return found[space] if share.first else np.zeros((len(texts), 1), np.float32)

    pairs = sts.read(folder)
    found = sts.score(pairs, encode)
    if not share.first:
        return {**share.agree(dict), "fresh": True}
    if rows is not None:
        rows.finish()
    return share.agree(lambda: _finish(config, model.name, words, found, pairs, train, stage))


def _finish(
    config: EvalConfig,
    name: str,
    space: str,
    found: dict[str, sts.SetScores],
    pairs: Mapping[str, Sequence[sts.Row]],
    train: Split | None,
    stage: StageRun | None,
) -> dict[str, Any]:
    """Compute the figures and write the results."""
    leaked = leakage.of_texts(train, sts.texts(pairs)) if train is not None else None
    num_pairs = sum(len(one.gold) for one in found.values())
    values = sts.numbers(found)
    resampled = f"95 % percentile bootstrap over resampled pairs; {config.bootstrap:,} resamples, seed {config.seed}"
    result: dict[str, Any] = {
        "student": name,
        "dataset": "sts",
        "pairs": num_pairs,
        "protocol": PROTOCOL,
        "interval": resampled if config.bootstrap else "none",
        "remarks": [leakage.sentence(leaked)] if leaked and leaked["captions"] else [],
        "leakage": leaked,
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
    if stage is not None:
        out = stage.out
        with stage.begin():
            store.write_json(out / "metrics.json", result)
            store.write_table(out / "pairs.parquet", _table(found))
            stage.finish(outputs=[out / "metrics.json", out / "pairs.parquet"], counts={"pairs": num_pairs})
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
