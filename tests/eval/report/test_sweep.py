"""A sweep's frontier against its definition, its settings as means over seeds."""

import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cusa.errors import DataError
from cusa.eval.report import stage as report
from cusa.eval.report import sweep
from cusa.manifests.storage import store


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_frontier__is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = {points[number] for number in sweep.frontier(points)}
    plain = {
        one for one in points if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in points)
    }
    assert front == plain
    across = [points[number][0] for number in sweep.frontier(points)]
    assert across == sorted(across)


def _sweep(folder: Path) -> Path:
    rows = [
        {
            "run": f"a{alpha}",
            "loss.alpha": alpha,
            "seed": seed,
            "set.loss.beta": 0.5,
            "error": "",
            "seconds": 1.0,
            "cross-modal/rsum": 100 + 10 * alpha + seed,
            "image-to-image/r@1": 50 - 5 * alpha,
            "text-to-text/r@1": None,
        }
        for alpha, seed in itertools.product((0.1, 0.5, 1.0), (0, 1))
    ]
    rows.append({**rows[0], "run": "broken", "loss.alpha": 9.0, "cross-modal/rsum": None, "error": "diverged"})
    store.write_table(folder / "results.parquet", pa.Table.from_pylist(rows))
    return folder


def test_sweep__settings_are_means_over_seeds_and_the_frontier_is_drawn(
    evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = sweep.read(_sweep(tmp_path / "sweep"))
    assert [one.name for one in settings] == ["alpha 0.1, beta 0.5", "alpha 0.5, beta 0.5", "alpha 1.0, beta 0.5"]
    assert [one.seeds for one in settings] == [2, 2, 2]
    assert settings[0].values["cross-modal/rsum"] == pytest.approx(101.5)
    work, run = evaluated
    path = report.run([run], out=tmp_path / "r.html", work=work, sweep=tmp_path / "sweep").out
    page = path.read_text()
    assert page.count('<circle class="dot') == 3
    assert "1. alpha 1.0, beta 0.5: 110.5, 45" in page
    assert "| 1. alpha 1.0, beta 0.5 | 2 | 110.50 ± 0.71 | 45.00 ± 0.00* |" in path.with_suffix(".md").read_text()
    for value in (float("nan"), float("inf")):
        rows = [{"run": "a", "loss.alpha": 9.0, "cross-modal/rsum": value, "image-to-image/r@1": 1.0}]
        rows.append({"run": "b", "loss.alpha": 1.0, "cross-modal/rsum": 100.0, "image-to-image/r@1": value})
        store.write_table(tmp_path / "none/results.parquet", pa.Table.from_pylist(rows))
        assert [one.name for one in sweep.read(tmp_path / "none")] == ["alpha 1.0"]
        gathered = sweep.gather(sweep.read(tmp_path / "none"))
        assert gathered is not None
        assert (gathered.charts, gathered.table.rows) == ([], [["1. alpha 1.0", "1", "100.00"]])
    broken = pa.Table.from_pylist([{"run": "a", "error": "diverged", "cross-modal/rsum": None}])
    store.write_table(tmp_path / "none/results.parquet", broken)
    with pytest.raises(DataError, match="no cell with"):
        sweep.read(tmp_path / "none")
