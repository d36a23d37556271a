"""The sample that people judge so that missing positives can be estimated, and the estimate from their judgements."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.manifests import schemas
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline.audit.missing import Strata, allocate, ceilings, draw, enough, estimate, strata, stratum_rows
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.pairs.candidates import Candidates
from cusa.pipeline.pairs.ratings import PairRatings

FILE = "sample.parquet"
_NOT_RANDOM = (
    "These pairs were not drawn for this estimate: within a stratum they are taken for a random sample, which "
    "judgements sampled by similarity are not. `--sample` draws one."
)


def write_sample(folder: Path, split: Split, candidates: Candidates, config: AuditConfig) -> Path | None:
    """Write `sample.parquet`, the pairs to judge, if the configuration asks for any; return the file."""
    path = folder / FILE
    if not config.sample:
        path.unlink(missing_ok=True)
        return None
    cut, codes, which = _sample(split, candidates, config)
    images, captions = np.divmod(codes, max(split.num_captions, 1))
    drawn = np.bincount(which, minlength=len(cut.sizes))
    columns = [
        pa.array([split.image_keys[row] for row in images.tolist()], pa.string()),
        pa.array([split.caption_keys[row] for row in captions.tolist()], pa.string()),
        pa.array([cut.names[stratum] for stratum in which.tolist()], pa.string()),
        pa.array((cut.sizes / np.maximum(drawn, 1))[which], pa.float64()),
    ]
    store.write_table(path, pa.Table.from_arrays(columns, schema=schemas.AUDIT_SAMPLE))
    return path


def judge(
    split: Split, candidates: Candidates, config: AuditConfig, judged: PairRatings | None
) -> dict[str, Any] | None:
    """Estimate the missing positives from judgements.

    Args:
        split: the split.
        candidates: of its audit.
        config: of its audit: with `sample`, only judgements of the drawn pairs count.
        judged: the judgements, or None.

    Returns:
        total, interval, ceiling (estimate, low, high, each in both directions), judged, left_out (pairs of strata of
        which too few were judged), source, caveat and strata; None where nobody judged a pair that counts.
    """
    if judged is None:
        return None
    width = max(split.num_captions, 1)
    codes = candidates.image.astype(np.int64) * width + candidates.caption
    judged_codes = judged.images * width + judged.captions
    match = judged.match
    if config.sample:
        cut, drawn, _ = _sample(split, candidates, config)
        if judged.complete:  # everything else is known not to match
            judged_codes, match = drawn, np.isin(drawn, judged_codes)
        else:
            inside = np.isin(judged_codes, drawn)
            judged_codes, match = judged_codes[inside], match[inside]
    else:
        cut = _strata(split, candidates)
    if not len(judged_codes):
        return None
    which = _stratum(cut, codes, judged_codes)
    numbers, matches = (
        np.bincount(which, x, minlength=len(cut.sizes)).astype(int) for x in (np.ones(len(judged_codes)), match)
    )
    estimated = estimate(cut.sizes, numbers, matches, seed=config.seed)
    return {
        "total": estimated.total,
        "interval": [estimated.low, estimated.high],
        "ceiling": {
            name: ceilings(
                candidates.image,
                candidates.caption,
                rates[cut.of_candidates],
                split.caption_owner,
                num_images=split.num_images,
                elsewhere=float(rates[0] * cut.sizes[0]),
            )
            for name, rates in zip(("estimate", "low", "high"), estimated.rates, strict=True)
        },
        "judged": len(judged_codes),
        "left_out": int(cut.sizes[~enough(cut.sizes, numbers)].sum()),
        "source": judged.source,
        "caveat": "" if config.sample else _NOT_RANDOM,
        "strata": stratum_rows(cut, estimated, numbers, matches),
    }


def _strata(split: Split, candidates: Candidates) -> Strata:
    num_open = split.num_images * split.num_captions - split.num_captions
    return strata(candidates.p_positive, candidates.score, num_open)


def _sample(split: Split, candidates: Candidates, config: AuditConfig) -> tuple[Strata, np.ndarray, np.ndarray]:
    cut = _strata(split, candidates)
    codes = candidates.image.astype(np.int64) * max(split.num_captions, 1) + candidates.caption
    wanted = allocate(cut, candidates.p_positive, config.sample)
    return cut, *draw(cut, wanted, codes, owner=split.caption_owner, num_images=split.num_images, seed=config.seed)


def _stratum(cut: Strata, codes: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Return the stratum of each judged pair; 0 for those that are no candidates."""
    order = np.argsort(codes, kind="stable")
    place = np.minimum(np.searchsorted(codes[order], said), max(len(codes) - 1, 0))
    if not len(codes):
        return np.zeros(len(said), dtype=np.int64)
    there = codes[order][place] == said
    return np.where(there, cut.of_candidates[order][place], 0)
