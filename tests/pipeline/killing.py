"""Stages killed with SIGKILL at random moments and run again, in processes of their own.

    python -m tests.pipeline.killing STAGE FOLDER KILLS SEED

A helper process imports everything once and forks a child for each run, as a start of Python each time would take
minutes. Each kill meets the state before the stage; then the stage runs to its end, and every file is compared with
those of an undisturbed run.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# What a ledger says of the run, not of what it made.
_TIMES = {"seconds", "finished", "peak_memory_bytes", "modified", "digest"}


@dataclass(frozen=True)
class Survived:
    """What came of a stage's kills."""

    kills: int
    before_the_end: int
    """Kills that met the stage at work."""
    with_files_left: int
    """Kills after which something of the stage's lay there already."""
    same_bytes: int
    differ: tuple[str, ...]
    stray_files: tuple[str, ...]


def survive(stage: str, folder: Path, *, kills: int, seed: int = 0) -> Survived:
    """Kill a stage and run it again `kills` times, each from the same start."""
    command = [sys.executable, "-m", "tests.pipeline.killing", stage, str(folder), str(kills), str(seed)]
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(scratch), "SQLITE_TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280 + 20 * kills, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    fields = json.loads(done.stdout.splitlines()[-1])
    fields["stray_files"] += [file.name for file in scratch.iterdir()]
    return Survived(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def _world(folder: Path, **world: Any) -> Path:
    from tests.worlds import write_karpathy

    return write_karpathy(folder / "raw", splits=("train",), **world)


def _shard(source: Path, out: Path, *, append: bool = False) -> None:
    from cusa.pipeline import readers, shard
    from cusa.pipeline.config import ShardConfig

    shard.run(ShardConfig(workers=1, max_images=5), reading=readers.read("karpathy", source), out=out, append=append)


def _prepare_shard(folder: Path) -> None:
    _world(folder, images=60)


def _run_shard(folder: Path) -> None:
    _shard(folder / "raw/dataset_mini.json", folder / "out")


def _prepare_append(folder: Path) -> None:
    whole = _world(folder, images=60)
    rows = json.loads(whole.read_text())["images"]
    (folder / "raw/dataset_some.json").write_text(json.dumps({"dataset": "mini", "images": rows[::3]}))
    _shard(folder / "raw/dataset_some.json", folder / "out")


def _run_append(folder: Path) -> None:
    _shard(folder / "raw/dataset_mini.json", folder / "out", append=True)


def _prepare_work(folder: Path) -> None:
    _shard(_world(folder, images=40), folder / "out")


def _load(name: str, modality: str) -> Any:
    from tests.pipeline.audited import load

    teacher = load(name, modality)
    encode = teacher.encode
    teacher.encode = lambda items: time.sleep(0.004) or encode(items)  # as a teacher takes its time
    return teacher


def _split(folder: Path) -> Any:
    from cusa.manifests.samples import Split

    return Split(folder / "out", "train")


def _run_extract(folder: Path) -> None:
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig

    for modality, name in (("image", "colours"), ("text", "words")):
        extract.run(ExtractConfig(batch_size=7), split=_split(folder), teacher=name, modality=modality, load=_load)


def _prepare_import(folder: Path) -> None:
    import numpy as np

    _prepare_work(folder)
    keys = _split(folder).image_keys
    rows = np.random.default_rng(0).normal(size=(len(keys), 600)).astype(np.float32)
    np.savez(folder / "features.npz", ids=np.array(keys), features=rows)


def _run_import(folder: Path) -> None:
    from cusa.manifests.storage import store
    from cusa.pipeline.config import ExtractConfig
    from cusa.pipeline.extract import import_features

    path = folder / "features.npz"
    import_features.run(
        ExtractConfig(),
        split=_split(folder),
        features=import_features.read_features(path, None),
        sha256=store.sha256_file(path),
        teacher="mine",
        modality="image",
    )


def _prepare_index(folder: Path) -> None:
    _prepare_work(folder)
    _run_extract(folder)


def _run_index(folder: Path) -> None:
    from cusa.pipeline import index
    from cusa.pipeline.config import IndexConfig

    for name in ("colours", "words"):
        index.run(IndexConfig(neighbours=8), split=_split(folder), teacher=name)


def _prepare_audit(folder: Path) -> None:
    _prepare_index(folder)
    _run_index(folder)


def _run_audit(folder: Path) -> None:
    from cusa.pipeline import audit
    from cusa.pipeline.config import AuditConfig

    audit.run(AuditConfig(neighbours=8, gallery=20), split=_split(folder))


def _run_audit_in_units(folder: Path) -> None:
    from cusa.pipeline.audit import units

    units.image_units = lambda number: [range(at, min(at + 3, number)) for at in range(0, number, 3)]
    _run_audit(folder)


def _run_audit_by_anybody(folder: Path) -> None:
    _by_anybody(_run_audit_in_units, folder)


def _by_anybody(run: Callable[[Path], None], folder: Path) -> None:
    """Run a stage in this process, in two, or as an array, by chance: another goes on from one that was killed."""
    from cusa.pipeline.engine import Workers
    from cusa.pipeline.units.sharing import UnitRange, sharing

    chance = random.Random(os.getpid())
    ways = [[None], [UnitRange("0/2"), UnitRange("1/2"), UnitRange("merge")], [UnitRange("1/2"), None]]
    for only in chance.choice(ways):
        with sharing(Workers(chance.choice([1, 1, 2])), only):
            run(folder)


def _run_index_by_anybody(folder: Path) -> None:
    from cusa.pipeline.index import units

    units.row_units = lambda number: [range(at, min(at + 30, number)) for at in range(0, number, 30)]
    _by_anybody(_run_index, folder)


def _prepare_calibrate(folder: Path) -> None:
    from tests.pipeline.calibrate.conftest import write_truth

    _prepare_audit(folder)
    write_truth(folder / "out", "train")


def _run_calibrate(folder: Path) -> None:
    from cusa.pipeline import calibrate
    from cusa.pipeline.config import CalibrateConfig

    config = CalibrateConfig(neighbours=4, pairs=300, background=100)
    calibrate.run(config, split=_split(folder), out=folder / "out/p.json")


def _run_calibrate_by_anybody(folder: Path) -> None:
    from cusa.pipeline.calibrate import units

    units.pair_units = lambda number: [range(at, min(at + 90, number)) for at in range(0, number, 90)]
    _by_anybody(_run_calibrate, folder)


def _prepare_evaluate(folder: Path) -> None:
    from cusa.models import student
    from cusa.models.config import StudentConfig

    _prepare_work(folder)
    sizes = {"image_size": 32, "image_width": 32, "text_width": 32, "width": 16, "patch_size": 16}
    config = StudentConfig(**sizes, image_layers=1, text_layers=1)
    student.create(config, captions=["a red wall", "two dogs play"], uni=True, seed=0).save(folder / "model")


def _run_evaluate(folder: Path) -> None:
    """Embed and rank as an array does, by chance in another order, or alone with units for rankings."""
    from cusa.eval import units
    from cusa.pipeline.engine import Workers
    from cusa.pipeline.units.sharing import UnitRange, sharing
    from cusa.workflow import evaluate
    from cusa.workflow.evaluated import units as evaluated_units

    units._ROWS = 16
    evaluated_units.SharedEvaluation.ranker = property(lambda self: self._rank)  # type: ignore[assignment]
    settings = ["batch_size=8", "block=20", "bootstrap=20"]
    request = evaluate.EvalRequest(
        [folder / "out"], split="train", output_folder=folder / "out/eval", settings=settings
    )
    chance = random.Random(os.getpid())
    for words in [*chance.sample(["0/3", "1/3", "2/3"], 3), "merge"]:
        with sharing(Workers(1), UnitRange(words)):
            evaluate.evaluate(str(folder / "model"), request)


def _run_verify(folder: Path) -> None:
    from cusa.pipeline import verify

    assert verify.run(folder / "out", workers=1).findings == ()


def _prepare_download(folder: Path) -> None:
    (folder / "out").mkdir()  # the server runs in the helper, for as long as it does


def _run_download(folder: Path) -> None:
    from cusa.manifests import datasets
    from cusa.pipeline import download
    from cusa.pipeline.config import DownloadConfig

    download.run(DownloadConfig(workers=2), dataset=datasets.load(str(folder / "mini.toml")), out=folder / "out")


STAGES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "download": (_prepare_download, _run_download),
    "shard": (_prepare_shard, _run_shard),
    "append": (_prepare_append, _run_append),
    "extract-teachers": (_prepare_work, _run_extract),
    "import": (_prepare_import, _run_import),
    "index": (_prepare_index, _run_index),
    "index-by-anybody": (_prepare_index, _run_index_by_anybody),
    "audit": (_prepare_audit, _run_audit),
    "audit-in-units": (_prepare_audit, _run_audit_in_units),
    "audit-by-anybody": (_prepare_audit, _run_audit_by_anybody),
    "calibrate-by-anybody": (_prepare_calibrate, _run_calibrate_by_anybody),
    "evaluate-by-an-array": (_prepare_evaluate, _run_evaluate),
    "verify": (_prepare_audit, _run_verify),
}
"""Stage -> what must be there, and the stage itself; its output is the folder `out`."""


def serve(folder: Path) -> None:
    """Write a manifest of files that a server in this process gives slowly, with their resumption."""
    from tests.pipeline.download.server import BODY, Server, make_manifest

    server = Server()

    def slowly(handler: Any, _: int) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", '"1"')
        handler.send_header("Content-Length", str(len(BODY) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        handler.end_headers()
        for at in range(start, len(BODY), 20_000):
            handler.wfile.write(BODY[at : at + 20_000])
            time.sleep(0.01)

    server.behaviour["/plain.bin"] = slowly
    manifest = make_manifest(server).model_dump()
    lines = [f"{name} = {json.dumps(manifest[name])}" for name in ("name", "title", "licence", "reader", "source")]
    for file in manifest["files"]:
        lines += ["[[files]]", *(f"{name} = {json.dumps(value)}" for name, value in file.items() if value)]
    (folder / "mini.toml").write_text("\n".join(lines))


def fork(function: Callable[[Path], None], folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            function(folder)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return child


def ends(child: int) -> None:
    code = os.waitpid(child, 0)[1]
    assert code == 0, f"the stage ended with {code}"


def files(folder: Path) -> dict[str, Any]:
    """Return every file below but locks: its bytes, or of a ledger what it says of its work."""
    from cusa.manifests.storage import store

    contents: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != store.LOCK:
            data: Any = file.read_bytes()
            if file.name.endswith("ledger.json"):
                fields = json.loads(data)
                own = _TIMES | (
                    {"counts"} if fields["stage"] in ("extract-teachers", "encode") else set()
                )  # rows computed this time
                data = {name: value for name, value in fields.items() if name not in own}
            contents[file.relative_to(folder).as_posix()] = data
    return contents


def _main(stage: str, folder: Path, kills: int, seed: int) -> Survived:
    import cusa.pipeline.audit
    import cusa.pipeline.calibrate
    import cusa.pipeline.download
    import cusa.pipeline.extract
    import cusa.pipeline.extract.import_features
    import cusa.pipeline.index
    import cusa.pipeline.readers
    import cusa.pipeline.verify  # noqa: F401 (imported once, before the forks; nothing here starts threads)

    prepare, run = STAGES[stage]
    if stage == "download":
        serve(folder)
    ends(fork(prepare, folder))
    out, before = folder / "out", folder / "before"
    out.mkdir(exist_ok=True)
    out.rename(before)

    def fresh() -> dict[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        return files(out)

    start_state = fresh()
    start = time.monotonic()
    ends(fork(run, folder))
    whole = time.monotonic() - start
    expected = files(out)
    assert stage == "verify" or expected != start_state
    chance = random.Random(seed)
    hit = there = same = 0
    stray, differ = set[str](), set[str]()
    for _ in range(kills):
        fresh()
        child = fork(run, folder)
        time.sleep(chance.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        hit += os.waitpid(child, 0)[1] == signal.SIGKILL
        there += files(out) != start_state
        ends(fork(run, folder))
        got = files(out)
        stray |= got.keys() - expected.keys()
        same += got == expected
        differ |= {name for name in got if name in expected and got[name] != expected[name]}
    return Survived(kills, hit, there, same, tuple(sorted(differ)), tuple(sorted(stray)))


if __name__ == "__main__":
    print(json.dumps(asdict(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))))  # noqa: T201
    sys.stdout.flush()
    os._exit(0)  # the server's threads need not be waited for
