"""Sweeps: the grid's cells, one run for one recipe, a table that equals the runs' own numbers, stops and failures."""

import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pyarrow.parquet as pq
import pytest

from cusa import recipe as recipes
from cusa.errors import ConfigError, StoppedError
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.pipeline import extract
from cusa.pipeline.config import ExtractConfig
from cusa.workflow import sweep
from tests import worlds

FEW = [
    *(text for text in recipes.smoke_settings("dual-encoder") if not text.startswith(("teachers.", "data."))),
    *("train.steps=2", "train.batch=8", "train.validate_every=2", "train.log_every=1", "eval.bootstrap=0"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = worlds.make_work(tmp_path_factory.mktemp("world"), images=12, captions=3)
    for teacher, modality in (("offline-gist", "image"), ("offline-ngrams", "text")):
        extract.run(ExtractConfig(), split=Split(work, "train"), teacher=teacher, modality=modality)
    return work


def test_run__the_paper_s_ablation_is_a_grid(work: Path, tmp_path: Path) -> None:
    grid = sweep.parse_grid(["method=baseline,csa,usa,cusa", "alpha=0.1,0.5", "seed=0,1"])
    done = sweep.run("tiny", grid, data=[work], out=tmp_path / "s", settings=FEW)
    table = pq.read_table(tmp_path / "s" / "results.parquet")
    rows = table.to_pylist()
    assert rows == done.rows
    assert [(row["method"], row["alpha"], row["seed"]) for row in rows] == [
        (method, alpha, seed)
        for method in ("baseline", "csa", "usa", "cusa")
        for alpha in (0.1, 0.5)
        for seed in (0, 1)
    ]
    # Where a method has no CSA, alpha changes nothing: one run, two rows.
    assert len({row["run"] for row in rows}) == 12
    assert done.outcome.counts == {"cells": 16, "runs": 12, "failed": 0}
    for row in rows:
        expected = {"baseline": (0, 0), "csa": (row["alpha"], 0), "usa": (0, 0.5), "cusa": (row["alpha"], 0.5)}
        assert (row["set.loss.alpha"], row["set.loss.beta"]) == expected[row["method"]]
        assert row["set.train.seed"] == row["seed"]
        told = store.read_json(tmp_path / "s/runs" / row["run"] / "eval/metrics.json")["tasks"]
        for task, found in told.items():
            for name, value in found.get("metrics", {}).items():
                assert row[f"{task}/{name}"] == value
        assert row["error"] == ""
    again = sweep.run("tiny", grid, data=[work], out=tmp_path / "s", settings=FEW)
    assert not again.outcome.fresh
    assert (again.rows, again.markdown) == (done.rows, done.markdown)
    # The same as one training by hand.
    assert "| cusa | 0.5 | 2 |" in done.markdown
    values = [row["cross-modal/rsum"] for row in rows if (row["method"], row["alpha"]) == ("cusa", 0.5)]
    half = 12.706 * stdev(values) / math.sqrt(2)  # t of one degree of freedom, from a printed table
    line = next(line for line in done.markdown.splitlines() if line.startswith("| cusa | 0.5 | 2 |"))
    assert f"{mean(values):.2f} ± " in line
    assert float(line.split("|")[4].split("±")[1]) == pytest.approx(half, rel=1e-3, abs=0.006)


def test_run__stopped_anywhere_it_goes_on_to_the_same_table(work: Path, tmp_path: Path) -> None:
    grid = {"beta": [0.0, 0.5], "tau_q": [0.05, 1.0]}
    whole = sweep.run("tiny", grid, data=[work], out=tmp_path / "whole", settings=FEW)
    asked = iter(range(100))
    with pytest.raises(StoppedError):
        sweep.run(
            "tiny",
            grid,
            data=[work],
            out=tmp_path / "cut",
            settings=FEW,
            callbacks=Callbacks(should_stop=lambda: next(asked) == 2),
        )
    assert 0 < pq.read_table(tmp_path / "cut/results.parquet").num_rows < 4
    done = sweep.run("tiny", grid, data=[work], out=tmp_path / "cut", settings=FEW)
    strip = [{key: value for key, value in row.items() if key != "seconds"} for row in done.rows]
    assert strip == [{key: value for key, value in row.items() if key != "seconds"} for row in whole.rows]
    # A larger grid trains only what is new.
    grid["tau_q"].append(0.3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut/runs").glob("*/ledger.json")}
    more = sweep.run("tiny", grid, data=[work], out=tmp_path / "cut", settings=FEW)
    assert more.outcome.counts["cells"] == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_run__a_cell_that_fails_is_a_row_and_the_others_go_on(work: Path, tmp_path: Path) -> None:
    told = [sys.executable, "-c", "from cusa.cli import main; main()", "sweep", "tiny", "--data", str(work)]
    told += ["--grid", "teachers.image=nobody,offline-gist", "--out", str(tmp_path / "s")]
    told += [part for setting in FEW for part in ("--set", setting)]
    done = subprocess.run([*told, "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stderr
    rows = json.loads(done.stdout)
    assert "has no image teacher 'nobody'" in rows[0]["error"]
    assert rows[0].get("cross-modal/rsum") is None
    assert rows[1]["error"] == ""
    assert rows[1]["cross-modal/rsum"] > 0
    assert "has no image teacher 'nobody'" in (tmp_path / "s/results.md").read_text()
    table = pq.read_table(tmp_path / "s/results.parquet")
    assert table["cross-modal/rsum"].null_count == 1
    assert not (tmp_path / "s/ledger.json").exists(), "run again, it tries again"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["loss.alpha"], "no KEY=VALUE,VALUE"),
        (["loss.alpha="], "no KEY=VALUE,VALUE"),
        (["=1"], "no KEY=VALUE,VALUE"),
        (["seed=0,1", "seed=2"], "comes twice"),
        (["seed=0,0"], "names a value twice"),
    ],
)
def test_parse_grid__what_is_no_axis(told: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep.parse_grid(told)


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("train.stpes=1", "Unknown key 'train.stpes'"),
        ("method=cosa", "There is no method 'cosa'"),
        ("tau_q=warm", "tau_q=warm: it is a number"),
        ("alpha=-1", "loss.alpha"),
    ],
)
def test_run__a_wrong_axis_stops_before_anything_is_trained(work: Path, tmp_path: Path, axis: str, words: str) -> None:
    grid = sweep.parse_grid([axis, "seed=0"])
    with pytest.raises(ConfigError, match=words):
        sweep.run("tiny", grid, data=[work], out=tmp_path / "s", settings=FEW)
    assert not (tmp_path / "s").exists()


def test_settings_of__the_paper_s_names() -> None:
    cell = {"tau_q": 0.05, "tau_c": 0.05, "tau_u": 2.0, "beta": 0.75, "train.batch": 64, "method": "usa"}
    told = recipes.load("tiny", sweep.settings_of(cell))
    teacher, csa, usa = (
        told.loss.teacher_image_temperature,
        told.loss.csa_image_temperature,
        told.loss.usa_text_temperature,
    )
    assert (teacher.initial, teacher.minimum, teacher.maximum, teacher.learned) == (0.05, 0.05, 0.05, False)
    assert (csa.initial, csa.minimum, csa.maximum, csa.learned) == (0.05, 0.05, 1.0, True)
    assert (usa.initial, usa.minimum, usa.maximum) == (2.0, 0.1, 2.0)
    assert (told.loss.alpha, told.loss.beta, told.train.batch) == (0.0, 0.75, 64)


@pytest.mark.parametrize("where", ["axis", "setting"])
def test_settings_of__a_treatment_s_strength_is_chosen_and_what_makes_it_stands(where: str) -> None:
    """The packaged strength once won over every value of the axis: three rows of one and the same run."""
    strength = {"loss.mask_text": 0.6} if where == "axis" else {}
    settings = ["loss.reduction=release", *(["loss.mask_text=0.6"] if where == "setting" else [])]
    mask = recipes.load("tiny", sweep.settings_of({"method": "mask", **strength}, settings)).loss
    assert (mask.false_negatives, mask.mask_text, mask.alpha, mask.beta) == ("mask", 0.6, 0.0, 0.0)
    gist = recipes.load("tiny", sweep.settings_of({"method": "gist", **strength}, settings)).loss
    assert (gist.mask_text, gist.mask_margin) == ("positive", 0.2)
    sigmoid = recipes.load("tiny", sweep.settings_of({"method": "sigmoid", "alpha": 0.5}, settings[:1])).loss
    assert (sigmoid.contrast, sigmoid.reduction, sigmoid.alpha) == ("sigmoid", "standard", 0.0)


def test_mean_interval__by_hand() -> None:
    centre, half = sweep.mean_interval([1.0, 2.0, 3.0])
    assert centre == 2.0
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # t of two degrees of freedom, spread 1
    assert math.isnan(sweep.mean_interval([1.0])[1])


def test_places__two_recipes_never_share_a_folder() -> None:
    first, other = (recipes.load("tiny", [f"train.seed={seed}"]) for seed in (1, 2))
    places = sweep._places([({"x": "a_b"}, first), ({"x": "a-b"}, other), ({"x": "a_b"}, first)])
    assert places[0] == places[2] != places[1]


def test_markdown__seeds_that_failed_do_not_count() -> None:
    rows = [{"run": "a", "seed": 0, "error": ""}, {"run": "b", "seed": 1, "error": "No number."}]
    assert "| 1 |" in sweep.markdown(rows, ["seed"])


def test_run__any_changed_split_makes_a_sweep_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_one", lambda *told: {"error": "", "seconds": 1.0})
    work = worlds.make_work(tmp_path / "world", images=2, captions=1)

    def fresh() -> bool:
        return sweep.run("tiny", {"seed": [0, 1]}, data=[work], out=tmp_path / "s", settings=FEW).outcome.fresh

    assert fresh()
    for name in ("train", "val", "test"):
        assert not fresh()
        path = work / name / "captions.parquet"
        pq.write_table(pq.read_table(path), path, compression="none")  # the same rows, other bytes
        assert fresh(), name


def test_parse_grid__axes_in_their_order_with_numbers_as_numbers() -> None:
    grid = sweep.parse_grid(["loss.alpha=0.1, 1", " method = usa,cusa ", "seed=0,1e-3,true,"])
    assert grid == {"loss.alpha": [0.1, 1], "method": ["usa", "cusa"], "seed": [0, 0.001, "true"]}
    assert list(grid) == ["loss.alpha", "method", "seed"]
    assert sweep.cells({"a": [1, 2], "b": ["x", "y"]}) == [
        *({"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}),
    ]
    assert sweep.cells({}) == [{}]


def test_settings_of__in_the_order_in_which_they_win() -> None:
    told = sweep.settings_of({"seed": 3, "alpha": 0.5, "loss.beta": 2}, ["train.steps=9"])
    assert told == ["train.steps=9", "train.seed=3", "loss.alpha=0.5", "loss.beta=2"]
    assert sweep.settings_of({}, ["a=1"]) == ["a=1"]
    method = recipes.method_settings("usa")
    assert sweep.settings_of({"method": "usa", "seed": 1}, ["a=1"]) == ["a=1", "train.seed=1", *method]


def test_places__readable_short_and_one_a_recipe() -> None:
    one, other = (recipes.load("tiny", [f"train.seed={seed}"]) for seed in (1, 2))
    assert sweep._places([({"seed": 1, "method": "usa"}, one), ({"seed": 2, "a/b": "x y"}, other)]) == [
        *("seed=1_method=usa", "seed=2_a-b=x-y"),
    ]
    assert sweep._places([({}, one), ({"seed": 1}, one)]) == ["run", "run"]
    long = {"axis": "v" * 130}
    (place,) = sweep._places([(long, one)])
    assert place == f"axis={'v' * 95}-{store.digest(long)[:12]}"
    assert sweep._places([({"axis": "v" * 115}, one)]) == [f"axis={'v' * 115}"]
    digest = store.digest(other.model_dump(mode="json"))
    assert sweep._places([({"x": "a/b"}, one), ({"x": "a b"}, other)]) == ["x=a-b", f"x=a-b-{digest[:12]}"]


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        ([1, None, 3], "int64", [1, None, 3]),
        ([1, 2.5, None], "double", [1.0, 2.5, None]),
        ([1, "x", None], "string", ["1", "x", None]),
        ([None, None], "double", [None, None]),
    ],
)
def test_column__numbers_stay_numbers(values: list[object], kind: str, written: list[object]) -> None:
    column = sweep._column(values)
    assert (str(column.type), column.to_pylist()) == (kind, written)


def test_markdown__a_row_a_cell_or_over_seeds_with_what_failed() -> None:
    rows = [
        {"run": "a", "alpha": 0.1, "seed": 0, "error": "", "cross-modal/rsum": 300.0, "sts/average": 70.0},
        {"run": "b", "alpha": 0.1, "seed": 1, "error": "", "cross-modal/rsum": 302.0, "sts/average": None},
        {"run": "c", "alpha": 0.5, "seed": 0, "error": "No number.", "other/x": 1.0},
    ]
    assert sweep.markdown(rows, ["alpha", "seed"]) == (
        "| alpha | seeds | RSUM | STS |\n| --- | --- | --- | --- |\n"
        "| 0.1 | 2 | 301.00 ± 12.71 | 70.00 |\n| 0.5 | 0 |  |  |\n"
        "\nMean over seeds, with the half width of its 95 % t-interval.\n"
        "\nWithout numbers:\n\n- `c`: No number.\n"
    )
    assert sweep.markdown(rows[:2], ["alpha"]) == (
        "| alpha | RSUM | STS |\n| --- | --- | --- |\n| 0.1 | 300.00 | 70.00 |\n| 0.1 | 302.00 |  |\n"
    )


def test_run__what_it_writes_and_that_a_failed_cell_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = worlds.make_work(tmp_path / "world", images=2, captions=1)
    failing = {2}
    asked: list[int] = []

    def one(recipe: recipes.Recipe, data: object, folder: Path, force: bool, callbacks: object) -> dict[str, object]:
        asked.append(recipe.train.seed)
        if recipe.train.seed in failing:
            return {"error": "No number.", "seconds": None}
        return {"error": "", "seconds": 1.5, "cross-modal/rsum": 100.0 + recipe.train.seed}

    monkeypatch.setattr(sweep, "_one", one)
    said: list[str] = []
    grid = {"seed": [1, 2, 3]}
    told = {"data": [work], "out": tmp_path / "s", "settings": [*FEW, "loss.alpha=0.3"]}
    swept = sweep.run("tiny", grid, **told, callbacks=Callbacks(on_message=said.append))  # type: ignore[arg-type]
    assert said == ["1 of 3: seed=1", "2 of 3: seed=2", "3 of 3: seed=3"]
    assert (swept.failed, swept.outcome.counts) == (["seed=2"], {"cells": 3, "runs": 3, "failed": 1})
    batch = recipes.load("tiny", FEW).train.batch
    reduction = recipes.load("tiny", FEW).loss.reduction
    always = {"set.loss.alpha": 0.3, "set.loss.reduction": reduction, "set.train.batch": batch}
    table = pq.read_table(tmp_path / "s/results.parquet").to_pylist()
    assert [{name: row[name] for name in always} for row in table] == [always] * 3
    assert [(row["run"], row["seed"], row["set.train.seed"], row["error"], row["seconds"]) for row in table] == [
        *(("seed=1", 1, 1, "", 1.5), ("seed=2", 2, 2, "No number.", None), ("seed=3", 3, 3, "", 1.5)),
    ]
    assert [row["cross-modal/rsum"] for row in table] == [101.0, None, 103.0]
    assert (tmp_path / "s/results.md").read_text() == swept.markdown == sweep.markdown(table, ["seed"])
    failing.clear()
    asked.clear()
    assert sweep.run("tiny", grid, **told).failed == []  # type: ignore[arg-type]
    assert asked == [1, 2, 3]
    again = sweep.run("tiny", grid, **told)  # type: ignore[arg-type]
    assert (again.outcome.fresh, asked, len(again.rows)) == (False, [1, 2, 3], 3)
    for other in ({"settings": told["settings"] + ["train.lr=0.5"]}, {"data": [work, tmp_path]}, {"force": True}):
        assert sweep.run("tiny", grid, **{**told, **other}).outcome.fresh  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="A sweep needs --data"):
        sweep.run("tiny", grid, data=[], out=tmp_path / "s")
