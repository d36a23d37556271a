"""An evaluation as it is asked for: its model's training data by digest, its kept embeddings, its folder held."""

from pathlib import Path

import pytest

from cusa.errors import BusyError
from cusa.eval.config import EvalConfig
from cusa.eval.encode import cache_key
from cusa.eval.job import Job, ModelSource, previous, writing
from cusa.eval.share import ALONE
from cusa.manifests.samples import Split
from cusa.manifests.stage import StageRun
from cusa.manifests.storage import store
from tests.eval.seers import Seer
from tests.worlds import make_work


def test_training_digest__of_one_split_its_own_of_several_all(tmp_path: Path) -> None:
    work = make_work(tmp_path, images=2, captions=1)
    one, other = Split(work, "train"), Split(work, "val")
    assert ModelSource(Seer, "1").training_digest == "unknown"
    assert ModelSource(Seer, "1", (one,)).training_digest == one.digest
    both = [ModelSource(Seer, "1", splits).training_digest for splits in ((one, other), (other, one))]
    assert both[0] == store.digest([one.digest, other.digest])
    assert len({*both, one.digest, other.digest}) == 4


def test_open_cache__where_rows_are_kept_and_so_many_bytes(tmp_path: Path) -> None:
    model, config = Seer(), EvalConfig(cache_mib=3)
    assert Job(None).open_cache(model, config) is None
    assert Job(None, cache=tmp_path).open_cache(model, EvalConfig(cache_mib=0)) is None
    cache = Job(None, cache=tmp_path).open_cache(model, config)
    assert cache is not None
    assert cache.name == store.digest(cache_key(model, config))[:16]
    assert cache._limit == 3 * 2**20
    assert cache._folder.parent == tmp_path


def test_previous_and_writing__the_results_of_last_time_and_one_writer(tmp_path: Path) -> None:
    def stage(number: int) -> StageRun:
        return StageRun("eval", tmp_path / "ledger.json", inputs={"model": "1"}, parameters={"number": number})

    assert previous(stage(1)) is None
    with writing(stage(1), ALONE):
        with pytest.raises(BusyError):
            _elsewhere(stage(2))
        store.write_json(tmp_path / "metrics.json", {"rsum": 1})
        begun = stage(1)
        with begun.begin():
            begun.finish(outputs=[tmp_path / "metrics.json"], counts={})
    found = previous(stage(1))
    assert found is not None
    assert (found.outcome.fresh, found.result) == (False, {"rsum": 1})
    assert previous(stage(2)) is None
    with writing(None, ALONE):
        pass


def _elsewhere(stage: StageRun) -> None:
    """Begin a stage in another thread, which is another writer."""
    from concurrent.futures import ThreadPoolExecutor

    def begin() -> None:
        with writing(stage, ALONE):
            pass

    with ThreadPoolExecutor(1) as pool:
        pool.submit(begin).result()
