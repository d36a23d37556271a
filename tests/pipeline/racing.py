"""Two writers of one stage at the same moment, in processes of their own.

    python -m tests.pipeline.racing FOLDER ROUNDS SEED STAGE ...

A helper process imports everything once (what a stage imports while it works, it learns from the first child that does
the stage: a child of its own would spend ten seconds on it each time) and forks two children a round, as
`tests.pipeline.killing` does. Both start the stage from the same state. Whichever takes the folder's lock goes on
holding it, at the end of its work, until the other has ended; so that every round is a collision, however long the
other took to get there.
"""

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.pipeline import killing

_REFUSED = 3
_PATIENCE = 120.0  # seconds that a winner waits for the loser's end


@dataclass(frozen=True)
class Raced:
    """What came of a stage's two writers, round by round."""

    rounds: int
    one_worked: int
    """Rounds in which one writer did its work."""
    other_refused_by_name: int
    """Rounds in which the other was refused with the name, host and process of the first."""
    same_bytes: int
    differ: tuple[str, ...]
    stray_files: tuple[str, ...]
    words: tuple[str, ...]
    """What writers said that were neither."""


def race(stages: Sequence[str], folder: Path, *, rounds: int, seed: int = 0) -> dict[str, Raced]:
    """Let two writers of each stage start together `rounds` times, each time from the same state."""
    command = [sys.executable, "-m", "tests.pipeline.racing", str(folder), str(rounds), str(seed), *stages]
    for stage in stages:
        (folder / stage).mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command,
        cwd=killing.ROOT,
        capture_output=True,
        text=True,
        timeout=280 + 60 * rounds * len(stages),
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        stage: Raced(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
        for stage, fields in json.loads(done.stdout.splitlines()[-1]).items()
    }


SETTINGS = [
    "student.image_size=16",
    "student.patch_size=8",
    "student.image_width=16",
    "student.image_layers=1",
    "student.text_width=16",
    "student.text_layers=1",
    "student.head_width=8",
    "student.width=12",
    "train.batch=8",
    "train.steps=4",
    "train.validate_every=2",
    "train.checkpoint_every=2",
    "train.warmup_steps=0",
    "train.workers=1",
    "train.device=cpu",
    "eval.bootstrap=10",
    "eval.device=cpu",
]


def _prepare_calibrate(folder: Path) -> None:
    from tests.pipeline.audited import teach
    from tests.pipeline.calibrate.test_stage import write_truth
    from tests.worlds import make_work

    work = make_work(folder, images=12, splits=("val",))
    teach(work, split="val", image="colours", text="words")
    write_truth(work, "val")
    (folder / "out").mkdir()


def _run_calibrate(folder: Path) -> None:
    from cusa.manifests.samples import Split
    from cusa.pipeline import calibrate
    from cusa.pipeline.config import CalibrateConfig

    config = CalibrateConfig(neighbours=4, pairs=300, background=100)
    calibrate.run(config, split=Split(folder / "work", "val"), out=folder / "out/calibration.json")


def _prepare_train(folder: Path) -> None:
    from tests.pipeline.audited import teach
    from tests.worlds import make_work

    work = make_work(folder, images=8, captions=2)
    teach(work, split="train", image="colours", text="words")
    (folder / "out").mkdir()


def _run_train(folder: Path) -> None:
    from cusa import recipe
    from cusa.workflow import train

    train.train(recipe.load("tiny", SETTINGS), work=folder / "work", out=folder / "out")


def _prepare_eval(folder: Path) -> None:
    trained = folder.parent / "trained"  # three stages begin with one and the same run
    if not trained.exists():
        _prepare_train(trained)
        _run_train(trained)
    for name in ("work", "out"):
        shutil.copytree(trained / name, folder / name)


def _run_eval(folder: Path) -> None:
    from cusa.workflow import evaluate

    evaluate.evaluate(str(folder / "out"), evaluate.EvalRequest(data=[folder / "work"]))


def _run_export(folder: Path) -> None:
    from cusa.workflow import export

    export.export(str(folder / "out"), to="folder", out=folder / "out/exported")


def _prepare_report(folder: Path) -> None:
    _prepare_eval(folder)
    _run_eval(folder)


def _run_report(folder: Path) -> None:
    from cusa.workflow import report

    report.report([folder / "out"])


_NOT_RACED = ("verify", "calibrate-by-anybody", "evaluate-by-an-array")
"""The first writes nothing; the tasks of an array may embed the same rows, and a calibration is raced below."""

STAGES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    **{name: parts for name, parts in killing.STAGES.items() if name not in _NOT_RACED},
    "calibrate": (_prepare_calibrate, _run_calibrate),
    "train": (_prepare_train, _run_train),
    "eval": (_prepare_eval, _run_eval),
    "export": (_prepare_eval, _run_export),
    "report": (_prepare_report, _run_report),
}
"""Stage -> what must be there, and the stage itself; its output is the folder `out`."""
_TIMED = ("tensorboard/", "metrics.parquet", "checkpoints/", ".html", ".md")
"""Files that hold the seconds of a run; whether they are there is compared, not their bytes. Weights are in `model`."""


def _worker(run: Callable[[Path], None], folder: Path, number: int, wait: float) -> int:
    """Fork a writer; its exit status says what became of it, `writer-NUMBER` what it said."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        from cusa.errors import BusyError
        from cusa.manifests.stage import StageRun

        finish = StageRun.finish

        def finish_last(self: StageRun, **given: Any) -> Any:
            outcome = finish(self, **given)
            end = time.monotonic() + _PATIENCE
            while not (folder / f"ended-{1 - number}").exists() and time.monotonic() < end:
                time.sleep(0.01)
            return outcome

        StageRun.finish = finish_last  # type: ignore[method-assign]
        time.sleep(wait)
        try:
            run(folder)
            status = 0
        except BusyError as error:
            (folder / f"writer-{number}").write_text(f"{error.values['holder'].pid}\n{error}")
            status = _REFUSED
        except BaseException as error:
            (folder / f"writer-{number}").write_text(f"0\n{error!r}")
            status = 1
        (folder / f"ended-{number}").touch()
    finally:
        os._exit(status)


def _noting_imports(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that also writes down, in `imported`, every module that is loaded at its end."""

    def run(folder: Path) -> None:
        function(folder)
        (folder / "imported").write_text("\n".join(sys.modules))

    return run


def _import_noted(folder: Path) -> None:
    """Import what a child had to import; imports start no threads, so that this process can still fork."""
    for name in (folder / "imported").read_text().splitlines():
        if name not in sys.modules:
            with suppress(Exception):  # made up while something ran, not found under its name
                importlib.import_module(name)


def _main(stage: str, folder: Path, rounds: int, seed: int) -> Raced:
    import cusa.eval.evaluate
    import cusa.pipeline.audit
    import cusa.pipeline.calibrate
    import cusa.pipeline.download
    import cusa.pipeline.extract.import_features
    import cusa.pipeline.index
    import cusa.pipeline.readers
    import cusa.workflow.train  # noqa: F401 (imported once, before the forks)

    prepare, run = STAGES[stage]
    if stage == "download":
        killing.serve(folder)
    killing.ends(killing.fork(_noting_imports(prepare), folder))
    _import_noted(folder)
    out, before = folder / "out", folder / "before"
    out.mkdir(exist_ok=True)
    shutil.copytree(out, before)
    start_state = killing.files(out)
    killing.ends(killing.fork(_noting_imports(run), folder))
    _import_noted(folder)
    expected = _comparable(killing.files(out))
    assert expected != _comparable(start_state)
    chance = random.Random(seed)
    worked = refused = same = 0
    differ, stray, words = set[str](), set[str](), []
    for _ in range(rounds):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        for mark in [*folder.glob("ended-*"), *folder.glob("writer-*")]:
            mark.unlink()
        waits = (0.0, chance.choice((0.0, 0.0, 0.002, 0.02)))
        children = [_worker(run, folder, number, wait) for number, wait in enumerate(waits)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        worked += statuses.count(0) == 1
        for number, status in enumerate(statuses):
            if status == 0:
                continue
            pid, _, message = (folder / f"writer-{number}").read_text().partition("\n")
            if status == _REFUSED and int(pid) == children[1 - number] and f"process {pid} on " in message:
                refused += 1
            else:
                words.append(message)
        got = _comparable(killing.files(out))
        same += got == expected
        stray |= got.keys() ^ expected.keys()
        differ |= {name for name in got if name in expected and got[name] != expected[name]}
    return Raced(rounds, worked, refused, same, tuple(sorted(differ)), tuple(sorted(stray)), tuple(words))


def _comparable(files: dict[str, Any]) -> dict[str, Any]:
    """Return the files with names and bytes that do not depend on the clock."""
    comparable: dict[str, Any] = {}
    for name, data in files.items():
        if isinstance(data, dict):
            of_files = ("outputs", "digests")
            data |= {field: {file: data[field][file] for file in data[field] if not _timed(file)} for field in of_files}
        comparable["tensorboard" if name.startswith("tensorboard/") else name] = None if _timed(name) else data
    return comparable


def _timed(name: str) -> bool:
    return any(part in name for part in _TIMED)


if __name__ == "__main__":
    place, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    raced = {stage: asdict(_main(stage, place / stage, rounds, seed)) for stage in sys.argv[4:]}
    print(json.dumps(raced))  # noqa: T201
    sys.stdout.flush()
    os._exit(0)  # the server's threads need not be waited for
