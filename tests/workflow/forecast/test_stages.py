"""Every stage of a large data set by hand: units, hours, bytes, memory, and where they come from."""

from pathlib import Path
from typing import Any

import pytest

from cusa import recipe as recipes
from cusa.pipeline.config import AuditConfig
from cusa.workflow.forecast.rates import OwnRates, Rate
from cusa.workflow.forecast.stages import Forecast, Inputs, Job, stages

RATES: dict[str, Any] = {
    "machine": "here",
    "urls": {"images": 50.0},
    "shard": {"images": 100.0},
    "teachers": {"eyes": {"rows": 20.0, "width": 8}, "ears": {"rows": 200.0, "width": 4}},
    "index": {"multiplications": 1e6},
    "audit": {"images": 10.0},
    "train": {"tiny": {"pairs": 40.0, "parameters": 1000}},
}
PICTURES = 10_000 * 30_000


def _inputs(*settings: str, own: OwnRates | None = None, **job: Any) -> Inputs:
    told = recipes.load("tiny", ["teachers.image=a/eyes", "teachers.text=ears", "loss.alpha=0.1", *settings])
    of = {
        "rows": 10_000,
        "captions": 3,
        "machines": 2,
        "cores": 4,
        "memory": 1.0,
        "gbit": 1000.0,
        "image_bytes": 30_000,
    }
    return Inputs(Job(**{**of, **job}), told, own or OwnRates([]), RATES)


def _made(*settings: str, own: OwnRates | None = None, **job: Any) -> dict[str, Forecast]:
    return {f"{one.stage} {one.what}".strip(): one for one in stages(_inputs(*settings, own=own, **job))}


def _hours(items: float, rate: float) -> Any:
    return pytest.approx(items / (rate * 4) / 2 / 3600)


def test_stages__by_the_packaged_rates_of_every_core_and_machine() -> None:
    told = recipes.load("tiny")
    made = _made("train.epochs=2", "train.steps=0", "train.warmup_steps=0", "train.keep_checkpoints=3")
    assert list(made) == [
        *("download a table of URLs", "shard", "extract-teachers eyes", "extract-teachers ears"),
        *("index eyes", "index ears", "audit", "train 60,000 pairs"),
    ]
    source = "4 x one core of here"
    download, shard = made["download a table of URLs"], made["shard"]
    assert (download.units, download.hours, download.source) == (10, _hours(10_000, 50), source)
    assert (download.read, download.written, download.memory) == (PICTURES, PICTURES, 230 << 20)
    assert (shard.units, shard.hours, shard.source) == (10, _hours(10_000, 100), source)
    assert (shard.read, shard.written, shard.memory) == (PICTURES, PICTURES + 250 * 30_000, 145 << 20)
    eyes, ears = made["extract-teachers eyes"], made["extract-teachers ears"]
    assert (eyes.units, eyes.hours, eyes.read, eyes.written) == (10, _hours(10_000, 20), PICTURES, 2 * 10_000 * 8)
    assert (ears.units, ears.hours, ears.read, ears.written) == (10, _hours(30_000, 200), 250 * 30_000, 2 * 30_000 * 4)
    assert (eyes.memory, ears.memory, eyes.source) == (None, None, source)
    for name, rows, width, units in (("index eyes", 10_000, 8, 3), ("index ears", 30_000, 4, 8)):
        index = made[name]
        assert (index.units, index.hours, index.source) == (units, _hours(rows * rows * width, 1e6), source)
        assert (index.read, index.written) == (2 * rows * width, 4 * rows * width + 15 * rows * 50)
        assert (index.memory, index.limits) == (8 * rows * width + 46 * rows * 50, ())
    audit = made["audit"]
    near, candidates = 10_000 * 50 * 4, min(10_000 * AuditConfig().per_image, AuditConfig().rows)
    assert (audit.units, audit.hours, audit.source) == (3, _hours(10_000, 10), source)
    assert (audit.read, audit.written, audit.memory, audit.limits) == (15 * near, 32 * candidates, 12 * near, ())
    train = made["train 60,000 pairs"]
    assert (train.units, train.hours, train.source) == (2, _hours(60_000, 40), source)
    assert (train.read, train.written) == (60_000 * 30_000, 4 * 1000 * (1 + 3 * 4))
    assert (train.memory, train.limits) == ((500 << 20) + 16 * 1000, ())
    assert told.train.keep_checkpoints != 3, "the recipe's own number counts"


def test_stages__what_a_recipe_lacks_is_not_there_and_heads_read_no_picture() -> None:
    plain = _made("loss.alpha=0", "loss.beta=0", "train.steps=7", "train.batch=5", "train.warmup_steps=0")
    assert list(plain) == ["download a table of URLs", "shard", "train 35 pairs"]
    heads = _made("loss.alpha=0", "loss.beta=0", "student.kind=heads", "train.steps=7", "train.warmup_steps=0")
    assert list(heads.values())[-1].read == 0


def test_stages__more_machines_than_units_wait_and_the_network_bounds_a_download() -> None:
    few = _made(rows=1500, machines=8, captions=1)
    assert few["shard"].hours == pytest.approx(1500 / 400 / 2 / 3600), "two tars"
    assert few["audit"].hours == pytest.approx(1500 / 40 / 3600), "one unit"
    slow = _made(gbit=0.001)["download a table of URLs"]
    assert (slow.hours, slow.source) == (pytest.approx(PICTURES * 8 / 1e6 / 2 / 3600), "0.001 Gbit/s")
    small = _made(image_bytes=0)
    assert small["shard"].read == 10_000 * 25_000, "as LAION's"


def test_stages__what_a_machine_cannot_hold_is_said_with_the_size_at_which_it_breaks() -> None:
    tight = _made(memory=0.001)
    index, audit = tight["index eyes"], tight["audit"]
    has = 0.001 * 2**30
    assert index.breaks_at == pytest.approx(has // (8 * 8 + 46 * 50))
    assert "holds all 10,000 rows of 8 numbers" in index.limits[0]
    ears = tight["index ears"]
    assert ears.breaks_at == pytest.approx(has // (8 * 4 + 46 * 50) / 3), "in images, each of three captions"
    assert audit.breaks_at == pytest.approx(has / (12 * 50 * 4))
    assert audit.limits[0].endswith(f"it breaks at {audit.breaks_at:,.0f} images.")
    long = _made("train.epochs=1000000", "train.steps=0", "train.warmup_steps=0")
    train = list(long.values())[-1]
    assert train.hours is not None
    assert train.breaks_at == pytest.approx(10_000 * 365 * 24 / train.hours)
    assert train.limits[0].startswith("train: 30,000,000,000 pairs take 3.0 years ")
    assert "at 160 pairs a second and machine" in train.limits[0]


def test_stages__own_rates_are_a_machine_s_whatever_its_cores(tmp_path: Path) -> None:
    own = OwnRates([])
    for stage, what in (("download", ""), ("shard", ""), ("extract-teachers", "eyes"), ("audit", "")):
        own._best[stage, what] = (1.0, Rate(7.0, f"my {stage}", 1234.0, 99))
    own.widths["eyes"] = 16
    made = _made(own=own, image_bytes=0)
    assert made["shard"].hours == pytest.approx(10_000 / 7 / 2 / 3600)
    assert (made["shard"].read, made["shard"].memory, made["shard"].source) == (10_000 * 1234, 99, "my shard")
    assert (made["download a table of URLs"].memory, made["extract-teachers eyes"].memory) == (99, 99)
    assert made["extract-teachers eyes"].written == 2 * 10_000 * 16
    assert made["index eyes"].read == 2 * 10_000 * 16
    assert made["audit"].source == "my audit"
    unknown = _made("teachers.text=other", "teachers.image=eyes")
    assert (unknown["extract-teachers other"].hours, unknown["extract-teachers other"].written) == (None, 0)
    assert (unknown["index other"].hours, unknown["index other"].units) == (None, 1)
