"""Comparing two runs under every true match: the draw of the pairs to ask, and the scores from the answers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.eval.judged import pool as pools
from cusa.eval.judged import rankings
from cusa.eval.judged.estimate import Compared, compare
from cusa.eval.judged.pool import Pool
from cusa.eval.judged.sample import answers, priorities
from cusa.eval.judged.units import Units, single_pairs, whole_queries
from cusa.manifests import schemas
from cusa.manifests.judgements import eval_sample, pair_judgements
from cusa.manifests.judgements.eval_sample import SCORES, sample_path
from cusa.manifests.judgements.pair_judgements import Judgements
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store

MEANING = (
    "95 % interval of what the score would be if people had judged every pair of the pool; of these queries, not of "
    "other images"
)
_PROTOCOL = 1  # raised when a number changes its meaning


@dataclass(frozen=True)
class Rivals:
    """Two evaluated runs.

    Attributes:
        split: on which both were evaluated.
        names: of the runs.
        paths: their `per_query.parquet`.
    """

    split: Split
    names: tuple[str, str]
    paths: tuple[Path, Path]

    @property
    def folder(self) -> Path:
        """Where the comparison lies."""
        return eval_sample.folder(self.split, *self.names)


def draw(rivals: Rivals, *, seed: int = 0, force: bool = False) -> Outcome:
    """Write `pool.parquet` and the samples: which pairs decide the scores, and in which order people are asked.

    Pairs that are known already are not asked about and count as what they are. The order is drawn anew when a ranking
    or the split changed; then all verdicts so far count as known.

    Args:
        rivals: the runs.
        seed: of the draw.
        force: draw again even if nothing changed.

    Returns:
        The outcome; counts has the pairs, and how many of them are open.

    Raises:
        DataError: if the split was not audited, or a ranking is not of this split.
    """
    split, folder = rivals.split, rivals.folder
    tops = [rankings.read_ranking(split, path) for path in rivals.paths]
    digests = [store.digest({way: top.tolist() for way, top in one.items()}) for one in tops]
    inputs = {"split": split.digest, "first ranking": digests[0], "second ranking": digests[1]}
    parameters = {"protocol": _PROTOCOL, "runs": list(rivals.names), "seed": seed}
    stage = StageRun("judged", folder / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    judge = rankings.read_judge(split)
    judgements = pair_judgements.read(split)
    with stage.begin():
        both = {way: (tops[0][way], tops[1][way]) for way in tops[0]}
        known = rankings.known_pairs(split, judgements)
        pool = pools.build(both, known, (judge.codes, judge.probabilities), split.num_captions)
        # Not the numbers of an earlier draw: what that one asked is known now, and must not decide what this one asks.
        number = int(store.digest([inputs, parameters, judgements.digest])[:12], 16)
        metadata = {
            "outside": str(pools.expected_outside(pool, (judge.codes, judge.probabilities), split.num_captions)),
            "calibrated": str(judge.calibrated).lower(),
            "seed": str(number),
        }
        written = [folder / "pool.parquet"]
        store.write_table(written[0], _pool_table(split, pool, metadata))
        for place, scores in enumerate(SCORES):
            units = _units(pool, scores, number)
            path = sample_path(folder, scores)
            store.write_table(path, _sample_table(split, pool, units, scores, number + place))
            written.append(path)
        counts = {"pairs": len(pool.judge), "open": int(pool.open.sum())}
        return stage.finish(outputs=written, counts=counts)


def run(rivals: Rivals, *, force: bool = False) -> tuple[Outcome, dict[str, Any]]:
    """Write `scores.json`: R@1, R-Precision and mAP@R of both runs and their difference under every true match.

    Args:
        rivals: the runs; their pairs are drawn first, if they are not yet.
        force: compute again even if nothing changed.

    Returns:
        The outcome, and what `scores.json` holds.

    Raises:
        DataError: as `draw`; or if a pair that was known when the order was drawn is known no longer.
    """
    draw(rivals)
    split, folder = rivals.split, rivals.folder
    judgements = pair_judgements.read(split)
    samples = [folder / "pool.parquet", *(sample_path(folder, scores) for scores in SCORES)]
    inputs = {"verdicts": judgements.digest, **{path.name: store.sha256_file(path) for path in samples}}
    inputs["passed"] = store.digest(sorted(judgements.skipped))
    stage = StageRun(
        "judged scores",
        folder / "scores.ledger.json",
        inputs=inputs,
        parameters={"protocol": _PROTOCOL},
        force=force,
    )
    path = folder / "scores.json"
    if stage.up_to_date:
        return stage.reuse(), store.read_json(path)
    with stage.begin():
        result = _result(rivals, judgements)
        store.write_json(path, result)
        counts = {one["scores"]: one["answered_pairs"] for one in result["samples"]}
        return stage.finish(outputs=[path], counts=counts), result


def _result(rivals: Rivals, judgements: Judgements) -> dict[str, Any]:
    split, folder = rivals.split, rivals.folder
    tops = [rankings.read_ranking(split, path) for path in rivals.paths]
    table = store.read_table(folder / "pool.parquet", columns=schemas.JUDGED_POOL.names)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    pool = _read_pool(split, table, {way: (tops[0][way], tops[1][way]) for way in tops[0]})
    codes = pool.images * split.num_captions + pool.captions
    now = rankings.known_pairs(split, judgements)
    truth = pool.known.copy()
    truth[pool.open & np.isin(codes, now.others)] = 0.0
    truth[pool.open & np.isin(codes, now.matches)] = 1.0
    passed = np.isin(codes, rankings.passed_pairs(split, judgements))
    samples, scores = [], []
    for name in SCORES:
        units = _units(pool, name, int(metadata["seed"]))
        size, priority = _read_sample(folder, name, units)
        said = answers(units, size, priority, truth, passed)
        cost = units.pairs_of_unit
        samples.append(
            {
                "scores": name,
                "units": units.number,
                "pairs": len(np.unique(units.pair)),
                "answered_units": len(said.units),
                "answered_pairs": int(cost[said.units].sum()),
                "passed_units": said.passed,
            }
        )
        scores += [_as_json(one) for one in compare(units, size, said, truth)]
    return {
        "runs": list(rivals.names),
        "split": split.name,
        "interval": MEANING,
        "depth": max(top.shape[1] for one in tops for top in one.values()),
        "pool": {"pairs": len(pool.judge), "open_at_the_draw": int(pool.open.sum())},
        "expected_outside": round(float(metadata["outside"]), 2),
        "calibrated": metadata["calibrated"] == "true",
        "samples": samples,
        "scores": scores,
    }


def _as_json(one: Compared) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()}


def _units(pool: Pool, scores: str, seed: int) -> Units:
    return single_pairs(pool) if scores == "r@1" else whole_queries(pool, seed=seed)


def _pool_table(split: Split, pool: Pool, metadata: dict[str, str]) -> pa.Table:
    columns = [
        pa.array(split.image_keys, pa.string()).take(pa.array(pool.images)),
        pa.array(split.caption_keys, pa.string()).take(pa.array(pool.captions)),
        pa.array(pool.known == 1, mask=pool.open),
        pa.array(pool.judge),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.JUDGED_POOL.with_metadata(metadata))


def _read_pool(split: Split, table: pa.Table, both: dict[str, tuple[np.ndarray, np.ndarray]]) -> Pool:
    """Make the pool of the draw again: the same rankings, and what was known then."""
    images, captions = (
        np.array([row_of[key] for key in table[name].to_pylist()], np.int64)
        for name, row_of in (("image_key", split.image_row), ("caption_key", split.caption_row))
    )
    codes = images * split.num_captions + captions
    known = table["known_match"].to_pylist()
    match, other = (codes[[one is value for one in known]] for value in (True, False))
    judge = (codes, table["judge"].to_numpy())
    return pools.build(both, pools.KnownPairs(match, other), judge, split.num_captions)


def _sample_table(split: Split, pool: Pool, units: Units, scores: str, seed: int) -> pa.Table:
    size = units.sizes()
    priority = priorities(size, seed)
    order = np.lexsort((units.pair, units.unit, priority[units.unit]))
    unit, pair = units.unit[order], units.pair[order]
    columns = [
        pa.array(np.arange(1, len(order) + 1)),
        pa.array([scores] * len(order), pa.string()),
        pa.array(unit),
        pa.array(split.image_keys, pa.string()).take(pa.array(pool.images[pair])),
        pa.array(split.caption_keys, pa.string()).take(pa.array(pool.captions[pair])),
        pa.array(size[unit]),
        pa.array(priority[unit]),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.JUDGED_SAMPLE)


def _read_sample(folder: Path, scores: str, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Return size and priority of each unit.

    Raises:
        DataError: if the table has other units.
    """
    path = sample_path(folder, scores)
    table = store.read_table(path, columns=["unit", "size", "priority"])
    unit = table["unit"].to_numpy()
    if not np.array_equal(np.unique(unit), np.arange(units.number)) or len(unit) != len(units.unit):
        raise DataError(
            f"{path} does not belong to {folder / 'pool.parquet'}. Remove {folder} and draw again.", path=path
        )
    size, priority = np.ones(units.number), np.ones(units.number)
    size[unit], priority[unit] = table["size"].to_numpy(), table["priority"].to_numpy()
    return size, priority
