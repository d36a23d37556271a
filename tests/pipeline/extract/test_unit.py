"""A unit's part counts as done only if every key, content and page is the unit's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig, ShardConfig
from cusa.pipeline.extract.unit import fidelity
from tests.worlds import Colours, make_work

CONFIG = ExtractConfig(batch_size=4, dtype="float32")


def _row_too_few(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def _row_too_many(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def _other_order(table: pa.Table) -> pa.Table:
    return table.take(pa.array([1, 0, *range(2, len(table))]))


def _other_keys(table: pa.Table) -> pa.Table:
    return table.set_column(0, table.schema.field(0), table["key"].combine_chunks().take(pa.array([1, 0, 2, 3])))


def _other_content(table: pa.Table) -> pa.Table:
    return table.set_column(2, table.schema.field(2), table["content"].combine_chunks().take(pa.array([1, 0, 2, 3])))


def _other_stamp(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"weights_sha256": b"other"})


def _other_shard(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"shard_sha256": b"0" * 64})


@pytest.mark.parametrize(
    "change", [_row_too_few, _row_too_many, _other_order, _other_keys, _other_content, _other_stamp, _other_shard]
)
def test_do_unit__a_part_that_is_not_quite_the_units_is_made_again(tmp_path: Path, change: object) -> None:
    """The part lies where a killed run, which planned on an empty folder, would have finished it."""
    work = make_work(tmp_path, images=8, splits=("train",), config=ShardConfig(max_images=4, workers=1))
    folder = work / "train/teachers/colours"

    def run(teacher: Colours) -> None:
        extract.run(CONFIG, split=Split(work, "train"), teacher="colours", modality="image", load=lambda *_: teacher)

    class Dies(Colours):
        def encode(self, items: object) -> np.ndarray:
            raise KeyboardInterrupt

    run(Colours())
    whole = {part.name: part.read_bytes() for part in folder.glob("0*.parquet")}
    table = pq.read_table(folder / "00000.parquet")
    for path in [folder / "ledger.json", *folder.glob("0*.parquet")]:
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(Dies())
    store.write_table(folder / "00000.parquet", change(table))  # type: ignore[operator]
    run(Colours())
    assert {part.name: part.read_bytes() for part in folder.glob("0*.parquet")} == whole
    assert len(tables.read_teacher(Split(work, "train"), "colours").keys) == 8


def test_do_unit__a_finished_part_is_not_made_again_and_a_flipped_one_is(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=8, splits=("train",), config=ShardConfig(max_images=4, workers=1))
    folder = work / "train/teachers/colours"

    class DiesAfter(Colours):
        def encode(self, items: object) -> np.ndarray:
            if self.calls:
                raise KeyboardInterrupt
            return super().encode(items)  # type: ignore[arg-type]

    def run(teacher: Colours) -> float:
        return extract.run(
            CONFIG, split=Split(work, "train"), teacher="colours", modality="image", load=lambda *_: teacher
        ).counts["computed"]

    with pytest.raises(KeyboardInterrupt):
        run(DiesAfter())
    whole = (folder / "00000.parquet").read_bytes()
    assert run(Colours()) == 4
    assert (folder / "00000.parquet").read_bytes() == whole
    for path in [folder / "ledger.json", *folder.glob("0*.parquet")]:
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(DiesAfter())
    place = whole.index(pq.read_table(folder / "00000.parquet")["key"][0].as_py().encode())
    (folder / "00000.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert run(Colours()) == 8
    assert (folder / "00000.parquet").read_bytes() == whole


def test_fidelity__by_plain_loops() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(5, 7))
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    stored = (exact + rng.normal(scale=1e-3, size=exact.shape)).astype(np.float32)
    exact = exact.astype(np.float32)
    card = fidelity(stored, exact)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return float(sum(a * b) / (sum(a * a) * sum(b * b)) ** 0.5)

    errors = [1 - cosine(stored[i], exact[i]) for i in range(5)]
    pairs = [abs(cosine(stored[i], stored[j]) - cosine(exact[i], exact[j])) for i in range(5) for j in range(5)]
    assert card["rows"] == 5
    assert card["mean_row"] == pytest.approx(sum(errors) / 5, rel=1e-6)
    assert card["worst_row"] == pytest.approx(max(errors), rel=1e-6)
    assert card["worst_pair"] == pytest.approx(max(pairs), rel=1e-4)
