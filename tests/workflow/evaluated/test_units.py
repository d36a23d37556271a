"""An evaluation in units: the same numbers whoever embeds and ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cusa.errors import ConfigError, CusaError, DataError
from cusa.eval import units
from cusa.manifests.storage import store
from cusa.models import student as students
from cusa.models.config import StudentConfig
from cusa.pipeline.engine import Workers
from cusa.pipeline.units.sharing import UnitRange, sharing
from cusa.workflow import evaluate as scoring
from cusa.workflow.evaluated import units as evaluated_units
from tests.worlds import make_work

SMALL = StudentConfig(
    image_size=32, image_width=32, text_width=32, width=16, image_layers=1, text_layers=1, patch_size=16
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a work folder."""
    folder = tmp_path_factory.mktemp("units")
    students.create(SMALL, captions=["a red wall", "two dogs play"], uni=True, seed=0).save(folder / "small")
    return folder / "small", make_work(folder, images=26, splits=("test",))


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_ROWS", 16)
    monkeypatch.setattr(evaluated_units, "_models", {})


def _evaluate(world: tuple[Path, Path], out: Path, *more: str, **request: Any) -> dict[str, Any]:
    model, work = world
    settings = ["batch_size=8", "block=10", "bootstrap=20", *more]
    (result,) = scoring.evaluate(
        str(model), scoring.EvalRequest(data=[work], output_folder=out, settings=settings, **request)
    )
    return result


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("metrics.json", "per_query.parquet", "ids.txt")}


def _by_processes(world: tuple[Path, Path], out: Path) -> None:
    with sharing(Workers(2)):
        _evaluate(world, out)


def _by_an_array(world: tuple[Path, Path], out: Path) -> None:
    for words in ("2/3", "0/3", "1/3"):
        with sharing(Workers(1), UnitRange(words)):
            done = _evaluate(world, out)
        assert "When all are, rank with --unit-range merge" in done["units_made"]
        assert not (out / "metrics.json").exists()
    with sharing(Workers(1), UnitRange("merge")):
        _evaluate(world, out)


def _by_a_mixture(world: tuple[Path, Path], out: Path) -> None:
    with sharing(Workers(1), UnitRange("0:2")):
        _evaluate(world, out)
    files = sorted((out / "embeddings").rglob("image-*.parquet"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-9])
    with sharing(Workers(1), UnitRange("merge")), pytest.raises(DataError, match=r"not made: 0:1, 2:11\."):
        _evaluate(world, out)
    with sharing(Workers(1), UnitRange("1/2")):
        _evaluate(world, out)
    with pytest.MonkeyPatch.context() as patch:  # killed as it ranks
        patch.setattr(units, "read_parts", _stop)
        patch.setattr(evaluated_units.SharedEvaluation, "ranker", property(lambda self: self._rank))
        with sharing(Workers(1), UnitRange("0/2")):
            _evaluate(world, out)
        with sharing(Workers(1), UnitRange("merge")), pytest.raises(CusaError, match="stopped"):
            _evaluate(world, out)
        assert list((out / ".units").rglob("0000.parquet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluated_units.SharedEvaluation, "ranker", property(lambda self: self._rank))
        with sharing(Workers(1), UnitRange("merge")):
            _evaluate(world, out)


def _stop(*_: Any) -> Any:
    raise CusaError("stopped")


@pytest.mark.parametrize("shared", [pytest.param(_by_processes, marks=pytest.mark.slow), _by_an_array, _by_a_mixture])
def test_evaluate__the_same_bytes_as_by_one_process(
    world: tuple[Path, Path], tmp_path: Path, shared: Callable[[tuple[Path, Path], Path], None]
) -> None:
    _evaluate(world, tmp_path / "alone")
    shared(world, tmp_path / "shared")
    assert _bytes(tmp_path / "shared") == _bytes(tmp_path / "alone")
    assert not (tmp_path / "shared/.units").exists()
    assert not _evaluate(world, tmp_path / "shared")["fresh"]
    left = {file.suffix for file in store.files_below(tmp_path / "shared")}
    assert left <= {".json", ".parquet", ".txt", ".sha256", ".lock", ""}


def test_evaluate__embeddings_that_have_no_place_are_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    with sharing(Workers(2)), pytest.raises(ConfigError, match=r"cache_mib is 0.*Give --set cache_mib="):
        _evaluate(world, tmp_path, "cache_mib=0")


def test_evaluate__more_units_than_there_are(world: tuple[Path, Path], tmp_path: Path) -> None:
    with sharing(Workers(1), UnitRange("0:900")), pytest.raises(ConfigError, match="this stage has"):
        _evaluate(world, tmp_path)


def test_evaluate__what_is_no_work_folder_is_not_shared_by_an_array(
    world: tuple[Path, Path], tmp_path: Path, shared: Path
) -> None:
    request = scoring.EvalRequest(data=[shared / "data/sts"], output_folder=tmp_path)
    with sharing(Workers(1), UnitRange("0/2")), pytest.raises(ConfigError, match="--unit-range shares the embeddings"):
        scoring.evaluate(str(world[0]), request)
