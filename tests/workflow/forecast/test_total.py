"""The forecast: sums, what grows with the data, what more machines do, what breaks first."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cusa.cli import app
from cusa.errors import ConfigError
from cusa.workflow.forecast.stages import Forecast, Job
from cusa.workflow.forecast.total import Total, forecast
from cusa.workflow.plan import read_rates
from tests.workflow.forecast.test_rates import write

RECIPE = "clip-vit-b-32/coco/cusa"


def _by_stage(total: Total) -> dict[tuple[str, str], Forecast]:
    return {(stage.stage, stage.what if stage.stage != "train" else ""): stage for stage in total.stages}


def test_hours_and_bytes_follow_from_the_rates_by_hand() -> None:
    job = Job(rows=10_000_000, captions=2, machines=4, cores=8, gbit=100, image_bytes=30_000)
    total = forecast(RECIPE, job, settings=["train.epochs=3"])
    rates, stages = read_rates(), _by_stage(total)
    shard = stages["shard", ""]
    assert shard.hours == pytest.approx(10e6 / (rates["shard"]["images"] * 8 * 4) / 3600)
    assert (shard.units, shard.read, shard.written) == (10_000, 300_000_000_000, 305_000_000_000)
    text = stages["extract-teachers", "all-mpnet-base-v2"]
    assert text.hours == pytest.approx(20e6 / (rates["teachers"]["all-mpnet-base-v2"]["rows"] * 32) / 3600)
    assert text.written == 20_000_000 * 768 * 2
    train = stages["train", ""]
    assert train.hours == pytest.approx(60e6 / (rates["train"]["clip-vit-b-32"]["pairs"] * 32) / 3600)
    assert total.hours == pytest.approx(sum(stage.hours or 0 for stage in total.stages))
    assert total.written == sum(stage.written for stage in total.stages)


def test_training_reads_a_picture_with_every_pair() -> None:
    total = forecast(RECIPE, Job(rows=1000, captions=5), settings=["train.epochs=2"])
    assert _by_stage(total)["train", ""].read == 2 * 5000 * 25_000


def test_the_network_bounds_a_download() -> None:
    job = Job(rows=1_000_000, machines=2, cores=64, gbit=0.5, image_bytes=100_000)
    download = forecast(RECIPE, job).stages[0]
    assert download.hours == pytest.approx(1e6 * 1e5 * 8 / (0.5e9 * 2) / 3600)
    assert download.source == "0.5 Gbit/s"


def test_more_machines_share_units_and_nothing_else() -> None:
    one, four = (_by_stage(forecast(RECIPE, Job(rows=2_000_000, machines=machines))) for machines in (1, 4))
    for key, stage in one.items():
        assert stage.hours is not None
        assert four[key].hours == pytest.approx(stage.hours / 4)
        assert four[key].written == stage.written
    few = _by_stage(forecast(RECIPE, Job(rows=5000, machines=400)))  # two units of an audit
    assert few["audit", ""].hours == pytest.approx(5000 / (read_rates()["audit"]["images"] * 16 * 2) / 3600)


def test_what_breaks_first_is_named_first_and_at_its_size() -> None:
    small = forecast(RECIPE, Job(rows=100_000, cores=32), settings=["train.epochs=1"])
    assert small.limits == []
    large = forecast(RECIPE, Job(rows=400_000_000, machines=16, cores=32), settings=["train.epochs=1"])
    assert [sentence.partition(":")[0] for sentence in large.limits] == [
        "index unicom-vit-b-32-tokens", "index all-mpnet-base-v2", "audit",
    ]  # fmt: skip
    index = next(stage for stage in large.stages if stage.stage == "index")
    at = int(index.breaks_at)
    below, above = (forecast(RECIPE, Job(rows=int(at * by))) for by in (0.5, 4))
    assert not any(stage.limits for stage in below.stages if stage.what == index.what)
    assert any(stage.limits for stage in above.stages if stage.what == index.what)


@pytest.mark.parametrize("memory", [64.0, 256.0, 2000.0])
@pytest.mark.parametrize("captions", [1, 5])
def test_an_index_breaks_from_the_size_that_it_names(memory: float, captions: int) -> None:
    def indexes(rows: int) -> dict[str, Forecast]:
        made = forecast(RECIPE, Job(rows=rows, captions=captions, memory=memory)).stages
        return {stage.what: stage for stage in made if stage.stage == "index"}

    for what, stage in indexes(400_000_000).items():
        at = int(stage.breaks_at)
        assert not indexes(int(0.999 * at))[what].limits, (what, at)
        assert indexes(int(1.001 * at) + 1)[what].limits, (what, at)


def test_money_is_hours_of_those_that_work() -> None:
    job = Job(rows=3_000_000, machines=5, price_hour=2.0, price_terabyte=20.0)
    total = forecast(RECIPE, job)
    assert total.price == pytest.approx(10 * total.hours)
    one = forecast(RECIPE, Job(rows=900, machines=5, price_hour=2.0))  # one unit of each stage but training
    assert one.price == pytest.approx(sum((s.hours or 0) * (10 if s.stage == "train" else 2) for s in one.stages))
    assert total.price_month == pytest.approx(20 * total.written / 1e12)


def test_own_ledgers_replace_the_packaged_rates(tmp_path: Path) -> None:
    seconds = write(tmp_path, "shard", {"images_read": 50})
    total = forecast(RECIPE, Job(rows=1_000_000), ledgers=[tmp_path])
    shard = _by_stage(total)["shard", ""]
    assert shard.hours == pytest.approx(1e6 / (50 / seconds) / 3600)
    assert "50 items" in shard.source
    assert shard.read == 20_000_000  # 20 bytes an image
    assert any("as in 50 items" in note for note in total.notes)


def test_a_stage_without_a_rate_is_left_out_and_said_to_be() -> None:
    total = forecast(RECIPE, Job(rows=1000), settings=["teachers.text=my-own-teacher"])
    assert any(note.startswith("No rate was measured for extract-teachers my-own-teacher") for note in total.notes)


@pytest.mark.parametrize(
    "numbers",
    [
        {"rows": -1},
        {"machines": 0},
        {"gbit": 0.0},
        {"image_bytes": -1},
        {"price_hour": -0.1},
        {"price_hour": float("nan")},
        {"memory": float("inf")},
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(numbers)).replace('_', '-')} is"):
        forecast(RECIPE, Job(**{"rows": 10, **numbers}))


def test_the_command_prints_and_gives_json() -> None:
    words = ["plan", RECIPE, "--rows", "400000000", "--machines", "16", "--price-hour", "2", "--set", "train.epochs=1"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "over 400,000,000 images with 1 caption each, on 16 machines" in shown.output
    assert "Breaks first: index unicom-vit-b-32-tokens" in shown.output
    given = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [stage["stage"] for stage in given["stages"]][:2] == ["download", "shard"]
    assert given["hours"] == pytest.approx(sum(stage["hours"] for stage in given["stages"]))
    assert given["limits"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--machines", "3"], "are read with --rows N alone"),
        (["--price-hour", "2"], "are read with --rows N alone"),
        (["--rows", "0"], "--rows is 0"),
        (["--rows", "10", "--smoke"], "have no part in it"),
        (["--rows", "10", "--data", "work"], "have no part in it"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: list[str], said: str) -> None:
    refused = CliRunner().invoke(app, ["plan", RECIPE, *options])
    assert refused.exit_code == 2
    assert said in " ".join(refused.output.split())


@pytest.mark.parametrize(("rows", "machines"), [(1_000_000, 1), (100_000_000, 16), (1_000_000_000, 64)])
def test_the_page_on_scale_says_what_the_command_says(rows: int, machines: int) -> None:
    words = ["plan", RECIPE, "--rows", str(rows), "--machines", str(machines), "--cores", "32", "--memory", "256"]
    words += ["--gbit", "10", "--set", "teachers.image=unicom-vit-b-32", "--set", "train.epochs=1"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "160"}).output.partition("\nrate of")[0]
    table = "\n".join(line.rstrip() for line in shown.splitlines())
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert table in page, "write the page anew: its tables are the command's"
