"""The whole journey on a small world: one key from the first file to the last, up to date the second time, and a stage
that is interrupted anywhere ends with the same bytes when it is run again."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cusa import recipe
from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests.events import Callbacks, OnEvent, ignore
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import NotCurrentError, StageRun, asking
from cusa.manifests.storage import seal, store
from cusa.pipeline import audit, extract, index, readers, shard
from cusa.pipeline.config import AuditConfig, ExtractConfig, IndexConfig, ShardConfig
from cusa.pipeline.sql import database as query
from cusa.workflow import demo as demos
from cusa.workflow import download as downloading
from cusa.workflow import evaluate as scoring
from cusa.workflow import report as reporting
from cusa.workflow import train as training
from tests.cli.test_cli import cusa_here

SETTINGS = ("train=40", "val=12", "test=12", "size=48")
RECIPE = [
    "train.steps=6",
    "train.batch=16",
    "train.validate_every=3",
    "train.log_every=1",
    "train.warmup_steps=0",
    "student.image_size=32",
    "student.image_width=32",
    "student.text_width=32",
    "student.width=32",
    "student.image_layers=1",
    "student.text_layers=1",
]


def _download(out: Path, on_event: OnEvent = ignore) -> bool:
    return downloading.download("scenes", out=out / "raw", settings=SETTINGS, on_event=on_event).fresh


def _shard(out: Path, on_event: OnEvent = ignore) -> bool:
    reading = readers.read("karpathy", out / "raw/dataset_scenes.json", out / "raw")
    config = ShardConfig(max_images=10, workers=1)
    return shard.run(config, reading=reading, out=out / "data", on_event=on_event).fresh


def _extract(out: Path, on_event: OnEvent = ignore) -> bool:
    fresh = [
        extract.run(
            ExtractConfig(batch_size=8),
            split=Split(out / "data", name),
            teacher=teacher,
            modality=modality,
            on_event=on_event,
        ).fresh
        for name in splits(out / "data")
        for modality, teacher in demos.DEMO_TEACHERS.items()
    ]
    return any(fresh)


def _index(out: Path, on_event: OnEvent = ignore) -> bool:
    fresh = [
        index.run(IndexConfig(neighbours=10), split=Split(out / "data", name), teacher=teacher, on_event=on_event).fresh
        for name in splits(out / "data")
        for teacher in demos.DEMO_TEACHERS.values()
    ]
    return any(fresh)


def _audit(out: Path, on_event: OnEvent = ignore) -> bool:
    return audit.run(AuditConfig(neighbours=10), split=Split(out / "data", "test"), on_event=on_event).fresh


def _train(out: Path, on_event: OnEvent = ignore) -> bool:
    told = recipe.load("scenes-cusa", RECIPE)
    return training.train(told, work=out / "data", out=out / "runs/cusa", callbacks=Callbacks(on_event)).fresh


def _eval(out: Path, on_event: OnEvent = ignore) -> bool:
    (result,) = scoring.evaluate(str(out / "runs/cusa"), scoring.EvalRequest(data=[out / "data"]), on_event=on_event)
    return bool(result["fresh"])


def _report(out: Path, on_event: OnEvent = ignore) -> bool:
    return reporting.report([out / "runs/cusa"], work=out / "data").fresh


STAGES: dict[str, Callable[..., bool]] = {
    "download": _download,
    "shard": _shard,
    "extract": _extract,
    "index": _index,
    "audit": _audit,
    "train": _train,
    "eval": _eval,
    "report": _report,
}


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the world as it was before each stage, and at the end."""
    out = tmp_path_factory.mktemp("journey") / "now"
    out.mkdir()
    before = {}
    for name, stage in STAGES.items():
        before[name] = out.parent / f"before-{name}"
        shutil.copytree(out, before[name])
        assert stage(out), name
    return {**before, "end": out}


def _content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): store.sha256_file(path) for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", STAGES)
def test_within_asking_no_stage_writes_and_with_force_neither(
    travelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`cusa plan` asks every stage; one that worked while it was asked would be the worst of surprises."""
    due, done = travelled[name], travelled["end"]
    before = _content(due), _content(done)
    with asking():
        with pytest.raises(NotCurrentError):
            STAGES[name](due)
        assert STAGES[name](done) is False
        constructor = StageRun.__init__
        monkeypatch.setattr(
            StageRun, "__init__", lambda self, *words, **values: constructor(self, *words, **{**values, "force": True})
        )
        with pytest.raises(NotCurrentError, match="--force"):
            STAGES[name](done)
    assert (_content(due), _content(done)) == before


def test_one_key_from_the_first_file_to_the_last(travelled: dict[str, Path]) -> None:
    out = travelled["end"]
    report = (out / "runs/cusa/report.html").read_text()
    per_query = pq.read_table(out / "runs/cusa/eval/per_query.parquet")["query_key"].to_pylist()
    key = next(row["key"] for row in Split(out / "data", "test").samples.to_pylist() if f'alt="{row["key"]}"' in report)
    assert key in per_query
    name = key.removeprefix("scenes/")
    rows = json.loads((out / "raw/dataset_scenes.json").read_text())["images"]
    assert f"{name}.jpg" in {row["filename"] for row in rows}
    test = out / "data/test"
    members = []
    for tar in test.glob("*.tar"):
        with tarfile.open(tar) as archive:
            members += archive.getnames()
    assert {f"{key}.jpg", f"{key}.json"} <= set(members)
    for file, column in (
        ("samples.parquet", "key"),
        ("captions.parquet", "key"),
        ("truth.parquet", "image_key"),
        ("index/neighbours-offline-scenes-image.parquet", "key"),
        ("audit/candidates.parquet", "image_key"),
    ):
        assert key in pq.read_table(test / file)[column].to_pylist(), file
    teachers = [pq.read_table(part) for part in (test / "teachers/offline-scenes-image").glob("*.parquet")]
    assert key in [found for part in teachers for found in part["key"].to_pylist()]
    captions = [pq.read_table(part) for part in (test / "teachers/offline-scenes-text").glob("*.parquet")]
    assert f"{key}#4" in [found for part in captions for found in part["caption_key"].to_pylist()]
    with query.connect(out / "data", runs=[out / "runs/cusa"]) as database:
        (count,) = database.run(
            f"select count(*) from samples join per_query on key = query_key and rank > 0 where key = '{key}'"
        ).rows[0]
    assert count > 0


def test_the_second_time_everything_is_up_to_date(travelled: dict[str, Path]) -> None:
    out = travelled["end"]
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for name, stage in STAGES.items():
        assert not stage(out), name
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps


class _Interrupts:
    """Raises KeyboardInterrupt, as Ctrl-C and SIGTERM do, at the n-th event."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, what: str, done: int, total: int) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


INTERRUPTED = [(name, after) for name in STAGES if name != "report" for after in (1, 2)]


@pytest.mark.parametrize(("name", "after"), [*INTERRUPTED, ("extract", 9), ("train", 5)])
def test_interrupted_and_run_again_ends_with_the_same_bytes(
    tmp_path: Path, travelled: dict[str, Path], name: str, after: int
) -> None:
    stage = STAGES[name]
    world = tmp_path / "world"
    shutil.copytree(travelled[name], world)
    following = list(STAGES)[list(STAGES).index(name) + 1]
    with pytest.raises(KeyboardInterrupt):
        stage(world, _Interrupts(after))
    assert not list(world.rglob(f"{store.TEMPORARY}*")), "a temporary file was left"
    assert stage(world)
    assert _comparable(world) == _comparable(travelled[following])


def _comparable(folder: Path) -> dict[str, object]:
    """Return each file's digest; what tells the time is left out, and metrics are compared without their timings."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if "ledger" in path.name or "tensorboard" in name or "checkpoints" in name or path.name == "run.json":
            continue
        if path.name == "metrics.parquet":
            timed = ("samples_per_second", "data_wait_share", "peak_memory_bytes")
            rows = pq.read_table(path).to_pylist()
            found[name] = [(r["step"], r["name"], r["value"]) for r in rows if r["name"] not in timed]
        else:
            found[name] = store.sha256_file(path)
    return found


def test_train__resume_changes_and_the_test_at_the_end(travelled: dict[str, Path], tmp_path: Path) -> None:
    work, out = travelled["end"] / "data", tmp_path / "run"
    told = recipe.load("scenes-cusa", [*RECIPE, "train.steps=2"])
    with pytest.raises(DataError, match="holds no checkpoint"):
        training.train(told, work=work, out=out, resume="must")
    with pytest.raises(ConfigError, match="'maybe'; allowed: auto, must"):
        training.train(told, work=work, out=out, resume="maybe")
    training.train(told, work=work, out=out)
    assert not (out / "eval").exists()
    wider = recipe.load("scenes-cusa", [*RECIPE, "train.steps=2", "student.head_std=0.03"])
    with pytest.raises(
        StaleError, match=r"student\.head_std was 0\.02 and is now 0\.03.*--allow-changed student\.head_std"
    ):
        training.train(wider, work=work, out=out)
    done = training.train(wider, work=work, out=out, allow_changed=["student.head_std"], resume="must", test=True)
    assert "student.head_std was 0.02 and is now 0.03, as was allowed" in done.notes[0]
    assert store.read_json(out / "recipe.json")["student"]["head_std"] == 0.03
    scores = store.read_json(out / "eval" / "metrics.json")
    assert scores["split"] == "test"
    assert not training.train(wider, work=work, out=out, test=True).fresh


def test_train__by_torchrun_on_two_ranks_as_by_one_process(travelled: dict[str, Path], tmp_path: Path) -> None:
    settings = [part for setting in [*RECIPE, "train.steps=2"] for part in ("--set", setting)]
    told = ["train", "scenes-cusa", "--data", str(travelled["eval"] / "data"), *settings]
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cusa"]
    two = subprocess.run([*launched, *told, "--out", str(tmp_path / "two")], capture_output=True, text=True)
    for done in (two, cusa_here(*told, "--out", tmp_path / "one")):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("train: ") == 1, "one rank reports"
    rows = {
        out: {
            (row["step"], row["name"]): row["value"]
            for row in pq.read_table(tmp_path / out / "metrics.parquet").to_pylist()
        }
        for out in ("one", "two")
    }
    assert rows["one"].keys() == rows["two"].keys()
    for place, value in rows["one"].items():
        if place[1] in ("loss", "infonce", "csa", "usa", "grad_norm"):
            assert rows["two"][place] == pytest.approx(value, rel=1e-4), place


def test_report__two_runs_hostile_names_and_missing_pieces(tmp_path: Path, travelled: dict[str, Path]) -> None:
    world = tmp_path / "world"
    shutil.copytree(travelled["end"], world)
    shutil.rmtree(world / "data/test/audit")
    other = world / "runs/<b>other"
    shutil.copytree(world / "runs/cusa", other)
    settings = json.loads((other / "recipe.json").read_text())
    settings["description"] = "<script>alert(1)</script>"
    (other / "recipe.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"recipe\.json was changed after"):
        reporting.report([world / "runs/cusa", other], work=world / "data", out=world / "both.html")
    # Such a recipe as training itself would have recorded it.
    written = json.loads((other / "ledger.json").read_text())
    written["outputs"]["recipe.json"] = (other / "recipe.json").stat().st_size
    written["digests"]["recipe.json"] = store.sha256_file(other / "recipe.json")
    store.write_json(other / "ledger.json", seal.sealed(written))
    written = reporting.report([world / "runs/cusa", other], work=world / "data", out=world / "both.html")
    page = written.out.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;other" in page
    assert "<b>other" not in page
    # A run compared with itself differs in nothing.
    assert "+0.00" in page
    assert "The audit" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "| **Cross-modal retrieval, the data set's own pairs** |" in written.out.with_suffix(".md").read_text()
