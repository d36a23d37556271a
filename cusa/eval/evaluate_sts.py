"""One evaluation of a text encoder on the STS sets: what `evaluate` is to a split."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.eval import leakage
from cusa.eval.config import STS_PROTOCOL, EvalConfig
from cusa.eval.job import Evaluated, Job, ModelSource, previous, writing
from cusa.eval.tasks import sts
from cusa.manifests import schemas
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import sts_pairs
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store


def is_layout(folder: Path) -> bool:
    """Tell whether a folder holds one of the STS sets."""
    return bool(sts_pairs.parts(folder))


def run(config: EvalConfig, model: ModelSource, folder: Path, job: Job, *, on_event: OnEvent = ignore) -> Evaluated:
    """Score a text encoder on the STS sets of a folder; write `metrics.json` and `pairs.parquet` where they are kept.

    Args:
        config: batch size, resamples.
        model: the encoder.
        folder: the one above `STS` and `SICK`, or `STS` itself.
        job: where the results go, who computes; it names no tasks.
        on_event: called with every batch.

    Returns:
        The outcome, and what `metrics.json` holds.

    Raises:
        DataError: if the folder holds none of the sets, a file is broken, or an embedding is not finite.
        BusyError: if another process evaluates into the same folder.
    """
    files = {part.path for part in sts_pairs.parts(folder)}
    files |= {part.scores for part in sts_pairs.parts(folder) if part.scores is not None}
    inputs = {"encoder": model.digest}
    inputs |= {path.relative_to(folder).as_posix(): store.sha256_file(path) for path in files if path.is_file()}
    inputs["training split"] = model.training_digest
    parameters = {"protocol": STS_PROTOCOL, **config.model_dump(mode="json", include={"bootstrap", "seed"})}

    stage = None
    if job.out is not None:
        stage = StageRun("eval", job.out / "ledger.json", inputs=inputs, parameters=parameters, force=job.force)
    old: Evaluated | None = job.share.agree(lambda: previous(stage) if stage is not None else None)
    if old is not None:
        return old
    from cusa.eval.encode import embed_texts

    pairs = sts.read(folder)
    with writing(stage, job.share):
        encoder = model.load()
        space, words = encoder.space_of("uni-modal")
        cache = job.open_cache(encoder, config)

        def encode(texts: Sequence[str]) -> np.ndarray:
            rows = embed_texts(
                encoder,
                texts,
                config,
                cache=cache,
                share=job.share,
                on_done=lambda done: on_event("encode sts", done, len(texts)),
            )
            return rows[space] if job.share.first else np.zeros((len(texts), 1), np.float32)

        scores = sts.score(pairs, encode)

        def finish() -> Evaluated:
            if cache is not None:
                cache.finish()
            result = _result(config, scores, encoder.name, words)
            leaked = leakage.of_texts(model.trained_on, sts.texts(pairs)) if model.trained_on else None
            result["leakage"] = leaked
            result["remarks"] = [leakage.sentence(leaked)] if leaked and leaked["captions"] else []
            return _write(stage, folder, result, scores, notes=tuple(cache.notes()) if cache is not None else ())

        done: Evaluated = job.share.agree(finish)
    return done


def _result(config: EvalConfig, scores: Mapping[str, sts.SetScores], name: str, space: str) -> dict[str, Any]:
    """Return what `metrics.json` holds, leakage apart."""
    num_pairs = sum(len(one.gold) for one in scores.values())
    resampled = f"95 % percentile bootstrap over resampled pairs; {config.bootstrap:,} resamples, seed {config.seed}"
    by_subset = {key: sts.subsets(one) for key, one in scores.items()}
    return {
        "student": name,
        "dataset": "sts",
        "pairs": num_pairs,
        "protocol": STS_PROTOCOL,
        "interval": resampled if config.bootstrap else "none",
        "tasks": {
            "sts": {
                "space": space,
                "protocol": sts.PROTOCOL,
                "queries": num_pairs,
                "metrics": {key: _rounded(value) for key, value in sts.numbers(scores).items()},
                "intervals": sts.intervals(scores, config),
                "subsets": {
                    key: {subset: _rounded(value) for subset, value in values.items()}
                    for key, values in by_subset.items()
                    if len(values) > 1
                },
            }
        },
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)  # JSON has no NaN


def _write(
    stage: StageRun | None,
    folder: Path,
    result: dict[str, Any],
    scores: Mapping[str, sts.SetScores],
    *,
    notes: tuple[str, ...],
) -> Evaluated:
    """Write the results and the ledger where they are kept."""
    counts = {"pairs": result["pairs"]}
    if stage is None:
        return Evaluated(Outcome("eval", folder, True, "nothing is kept", counts, 0.0, notes), result)
    files = [stage.out / "metrics.json", stage.out / "pairs.parquet"]
    store.write_json(files[0], result)
    store.write_table(files[1], _table(scores))
    return Evaluated(stage.finish(outputs=files, counts=counts, notes=notes), result)


def _table(scores: Mapping[str, sts.SetScores]) -> pa.Table:
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
        for name, one in scores.items()
    ]
    return pa.concat_tables(tables)
