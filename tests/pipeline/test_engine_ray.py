"""The engine on a real Ray started here: order, errors, a killed worker, and the same bytes as without it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cusa.errors import ConfigError, CusaError, DataError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import audit, extract, index, readers, shard
from cusa.pipeline.audit import units
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.engine import Engine, Workers, run_units
from cusa.pipeline.index import units as index_units
from cusa.pipeline.units.sharing import sharing
from tests.pipeline.audited import make_taught
from tests.worlds import make_work, write_karpathy

# Ray's own client leaves sockets and processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

RAY = Engine("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray with two cores for all tests that come after."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), path]))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
    os.environ["PYTHONPATH"] = path


def _square(unit: int) -> int:
    return unit * unit


def _fails_at_three(unit: int) -> int:
    if unit == 3:
        raise DataError("Unit 3 is broken.", unit=unit)
    return unit


def _dies_the_first_time(unit: tuple[int, Path]) -> int:
    number, mark = unit
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _always_dies_at_three(unit: int) -> int:
    if unit == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit


def _process(unit: int) -> int:
    return os.getpid()


def test_run_units__no_cluster_at_that_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No Ray cluster answers at --address 127.0.0.1:9"):
        run_units(_square, range(2), what="x", workers=Workers(engine=Engine("ray", "127.0.0.1:9")))


def test_extract__starts_a_ray_of_its_own_where_none_is_named(tmp_path: Path) -> None:
    import ray

    work = make_work(tmp_path, images=4, splits=("train",), config=ShardConfig(max_images=2, workers=1))
    split = Split(work, "train")
    done = extract.run(ExtractConfig(workers=2), split=split, teacher="offline-ngrams", modality="text", engine=RAY)
    assert done.counts["computed"] == 20
    assert not ray.is_initialized()


def test_run_units__results_come_in_the_units_order_from_workers_that_stay(cluster: None) -> None:
    events: list[tuple[str, int, int]] = []
    out = run_units(
        _square, range(7), what="square", workers=Workers(engine=RAY), on_event=lambda *event: events.append(event)
    )
    assert out == [0, 1, 4, 9, 16, 25, 36]
    assert events == [("square", done, 7) for done in range(8)]


def test_run_units__an_error_reaches_the_caller_and_workers_stay(cluster: None) -> None:
    processes = set(run_units(_process, range(9), what="who", workers=Workers(2, RAY)))
    assert len(processes) <= 2
    assert os.getpid() not in processes
    with pytest.raises(DataError, match="Unit 3 is broken") as caught:
        run_units(_fails_at_three, range(5), what="x", workers=Workers(engine=RAY))
    assert caught.value.values == {"unit": 3}


def test_run_units__a_killed_worker_gets_its_unit_again(cluster: None, tmp_path: Path) -> None:
    units = [(number, tmp_path / "died") for number in range(6)]
    assert run_units(_dies_the_first_time, units, what="x", workers=Workers(2, RAY)) == list(range(6))
    assert (tmp_path / "died").exists()


def test_run_units__a_unit_that_always_kills_its_worker_is_explained(cluster: None) -> None:
    with pytest.raises(CusaError, match=r"died 3 times at the same unit.*run the same command again"):
        run_units(_always_dies_at_three, range(5), what="x", workers=Workers(2, RAY))


def test_extract_and_shard__the_same_bytes_as_local(cluster: None, tmp_path: Path) -> None:
    source = write_karpathy(tmp_path / "raw", images=9, splits=("train",))
    reading = readers.read("karpathy", source, source.parent)
    for name, engine in (("local", Engine()), ("ray", RAY)):
        work = tmp_path / name
        shard.run(ShardConfig(max_images=3, workers=1), reading=reading, out=work, engine=engine)
        config = ExtractConfig(workers=0 if name == "local" else 2)
        for modality, teacher in (("image", "offline-gist"), ("text", "offline-ngrams")):
            extract.run(config, split=Split(work, "train"), teacher=teacher, modality=modality, engine=engine)
    for pattern, number in (("train/*.tar", 3), ("train/teachers/*/0*.parquet", 6), ("train/*.parquet", 4)):
        files = sorted((tmp_path / "local").glob(pattern))
        assert len(files) == number
        for file in files:
            assert file.read_bytes() == (tmp_path / "ray" / file.relative_to(tmp_path / "local")).read_bytes(), file


def test_index_and_audit__the_same_bytes_as_local(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "image_units", lambda number: [range(at, min(at + 5, number)) for at in (0, 5, 10)])
    monkeypatch.setattr(index_units, "row_units", lambda rows: [range(at, at + 6) for at in range(0, rows, 6)])
    split = Split(make_taught(tmp_path, images=12), "train")
    made = []
    for workers in (Workers(1), Workers(2, RAY)):
        with sharing(workers):
            for teacher in ("colours", "words"):
                index.run(IndexConfig(neighbours=4), split=split, teacher=teacher, force=True)
            audit.run(AuditConfig(neighbours=4, gallery=3), split=split, force=True)
        files = [file for room in ("index", "audit") for file in store.files_below(split.folder / room)]
        made.append({file.name: file.read_bytes() for file in files if not file.name.endswith("ledger.json")})
    assert made[0] == made[1]
    assert {"candidates.parquet", "summary.json", "neighbours-words.parquet", "words.faiss"} < made[0].keys()
