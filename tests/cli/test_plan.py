"""`cusa plan`: every option reaches the plan or the forecast, and what stages take is shown in sizes for people."""

import json
from pathlib import Path

import pytest

from cusa.workflow import plan as plans
from cusa.workflow.forecast import total
from cusa.workflow.forecast.stages import Forecast, Job
from tests.cli import calls

OF_ROWS = {"--rows", "--from", "--captions", "--machines", "--cores", "--memory", "--gbit", "--image-bytes"}
OF_ROWS |= {"--price-hour", "--price-terabyte"}
OF_PROJECTS = {"--out", "--data", "--name", "--smoke"}

PLAN = plans.Plan(
    "tiny",
    Path("p"),
    [
        plans.Planned("download", "mini", "due", "never finished", 3 * 10**12, 10**8, 7200.0, "here", "its terms"),
        plans.Planned("shard", "mini", "up to date", ""),
        plans.Planned("train", "tiny", "blocked", "no table", None, 99_000_000, 119.4, "here"),
        plans.Planned("eval", "mini", "due", "after train"),
    ],
    ("a note",),
)


def test_plan__every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls.record(monkeypatch, plans, "plan", lambda **told: PLAN)
    printed = calls.every_option(
        *("plan", "tiny", "--out", tmp_path, "--data", tmp_path / "w", "--name", "mine", "--set", "train.lr=1"),
        "--smoke",
        but=OF_ROWS,
    )
    told = {"out": tmp_path, "work": tmp_path / "w", "name": "mine", "settings": ["train.lr=1"], "smoke": True}
    assert done == [{"recipe": "tiny", **told}]
    assert [row.split("  ") for row in printed.splitlines()][0] == ["tiny in p"]
    rows = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in printed.splitlines()[1:]]
    assert rows == [
        ["stage", "on", "state", "fetch", "disk", "time"],
        ["download", "mini", "due: never finished", "3.0 TB", "0.1 GB", "2 h"],
        ["shard", "mini", "up to date"],
        ["train", "tiny", "blocked: no table", "99.0 MB", "119 s"],
        ["eval", "mini", "due: after train"],
        ["all", "3.0 TB", "0.2 GB", "2 h"],
        [],
        ["terms of mini: its terms"],
        [],
        ["a note"],
    ]
    calls.plain("plan", "tiny")
    told = {"out": Path("work"), "work": None, "name": "", "settings": (), "smoke": False}
    assert done[1] == {"recipe": "tiny", **told}
    as_json = json.loads(calls.plain("plan", "tiny", "--json"))
    assert (as_json["disk"], [one["stage"] for one in as_json["stages"]]) == (
        *(199_000_000, ["download", "shard", "train", "eval"]),
    )


def _total(job: Job, **more: object) -> total.Total:
    stages = [
        Forecast("download", "a table", 4000, 48.0, 10**12, 2 * 10**12, 230 << 20, "1 Gbit/s"),
        Forecast("index", "eyes", 3, 24.0, 1, 2, 3, "rate", ("It is full.",), 500.0),
        Forecast("audit", "", 2, None, 0, 0, None, "", ("It breaks.",), 100.0),
    ]
    return total.Total("tiny", job, stages, ("a note",))


def test_plan__of_rows_every_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"rows": 9, "captions": 2, "machines": 3, "cores": 4, "memory": 5.5, "gbit": 6.5, "image_bytes": 7}
    numbers |= {"price_hour": 8.5, "price_terabyte": 9.5}
    done = calls.record(monkeypatch, total, "forecast", lambda job, **told: _total(job))
    words = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", value)]
    printed = calls.every_option(
        *("plan", "tiny", *words, "--from", tmp_path / "a", "--from", tmp_path / "b", "--set", "train.lr=1"),
        but=OF_PROJECTS,
    )
    told = {"settings": ["train.lr=1"], "ledgers": [tmp_path / "a", tmp_path / "b"]}
    assert done == [{"recipe": "tiny", "job": Job(**numbers), **told}]  # type: ignore[arg-type]
    lines = printed.splitlines()
    assert lines[0] == "tiny over 9 images with 2 captions each, on 3 machines"
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:6]]
    assert rows == [
        ["stage", "on", "units", "time", "read", "written", "memory"],
        ["download", "a table", "4,000", "2 days", "1.0 TB", "2.0 TB", "0.2 GB"],
        ["index", "eyes", "3", "24 h", "0.0 MB", "0.0 MB", "0.0 MB"],
        ["audit", "2", "0.0 MB", "0.0 MB"],
        ["all", "3 days", "1.0 TB", "2.0 TB"],
    ]
    assert lines[6:] == [
        *("rate of download a table: 1 Gbit/s", "rate of index eyes: rate", ""),
        "1,836 for the machines, 19 a month for what is kept",  # 72 hours x 3 machines x 8.5; 2 TB x 9.5
        *("", "Breaks first: It breaks.", "", "Then: It is full.", "", "a note"),
    ]
    calls.plain("plan", "tiny", "--rows", 1)
    assert done[1] == {"recipe": "tiny", "job": Job(1), "settings": (), "ledgers": ()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *(((option, 2), "are read with --rows N alone") for option in sorted(OF_ROWS - {"--rows", "--from"})),
        (("--from", "x"), "are read with --rows N alone"),
        *((("--rows", 9, *words), "have no part in it") for words in (("--data", "x"), ("--name", "x"), ("--smoke",))),
        (("--rows", 9, "--out", "elsewhere"), "have no part in it"),
    ],
)
def test_plan__what_would_do_nothing_is_refused(words: tuple[object, ...], said: str) -> None:
    assert said in calls.refused("plan", "tiny", *words)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((119.0, "119 s"), (120.0, "2 min"), (7199.0, "120 min"), (7200.0, "2 h"), (172_799.0, "48 h")),
        *((172_800.0, "2 days"), (63_071_999.0, "730 days"), (63_072_000.0, "2 years")),
    ],
)
def test_plan__times_for_people(monkeypatch: pytest.MonkeyPatch, seconds: float, words: str) -> None:
    told = plans.Plan("tiny", Path("p"), [plans.Planned("train", "tiny", "due", "", None, None, seconds)], ())
    monkeypatch.setattr(plans, "plan", lambda *words, **more: told)
    assert calls.plain("plan", "tiny").splitlines()[2].endswith(f"  {words}")
