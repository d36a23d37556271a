"""Training in processes of its own, for tests that kill it or want several ranks.

A fork server imports everything once; each process is a fork of it and starts at once.
"""

import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cusa.errors import CusaError
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train import loop
from tests.train.conftest import LOSS, STUDENT, TRAIN

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.train.processes",
        "tests.train.test_across_ranks",
        "torch.nn.parallel",
        "transformers.models.clip.modeling_clip",
        "torch.utils.tensorboard",
    ]
)


def start_server() -> None:
    """Start the fork server where it finds this folder; it does not take over this process's search path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def validate(student: students.Student) -> dict[str, float]:
    torch.rand(7)
    return {"rsum": float(next(student.parameters()).detach().sum()), "other": 1.0}


def _train(
    work: Path, out: Path, train: Mapping[str, Any], env: Mapping[str, str], tell: Connection, waits_at: int
) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    split = Split(work, "train")
    student = students.create(STUDENT, captions=split.texts, uni=True, seed=0)
    # Dropout draws random numbers in every step: they must go on, too.
    head = student.heads["uni"]["image"]  # type: ignore[index]
    head.linear = torch.nn.Sequential(head.linear, torch.nn.Dropout(train.get("dropout", 0.5)))
    config = TRAIN.model_copy(
        update={name: value for name, value in train.items() if name not in ("dropout", "stops_on_rank")}
    )

    def report(what: str, step: int, total: int) -> None:
        tell.send(step)
        if step == waits_at:
            tell.recv()

    def should_stop() -> bool:
        return bool(train.get("stops_on_rank") == env.get("RANK", "0"))

    try:
        done = loop.run(
            config,
            LOSS,
            student=student,
            data=loop.TrainingSplit(split),
            out=out,
            validate=validate,
            callbacks=Callbacks(
                on_event=report, should_stop=lambda: train.get("stops_on_rank") == env.get("RANK", "0")
            ),
        )
        tell.send(done)
    except CusaError as error:
        tell.send(str(error))


class Run:
    """One training process; `ends` gives what it came to, or the message of its error."""

    def __init__(
        self,
        work: Path,
        out: Path,
        train: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
        *,
        waits_at: int = -1,
    ) -> None:
        start_server()
        self._line, tell = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_train, args=(work, out, dict(train), dict(env or {}), tell, waits_at))
        self.process.start()
        tell.close()

    def reaches(self, step: int) -> bool:
        """Wait until a step is done; False if the process ended before."""
        while True:
            message = self._receive()
            if not isinstance(message, int):
                return False
            if message >= step:
                return True

    def go_on(self) -> None:
        """Let it go on from the step at which it waits."""
        self._line.send("go on")

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode in (-signal.SIGKILL, 0), "0: it came to its end before the signal did"

    def ends(self) -> Any:
        while isinstance(message := self._receive(), int):
            pass
        self.process.join(60)
        return message

    def _receive(self) -> Any:
        try:
            return self._line.recv()
        except (EOFError, ConnectionResetError):
            return None


def together(work: Path, out: Path, train: Mapping[str, Any], *, world: int, waits_at: int = -1) -> list[Run]:
    """Start several ranks, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Run(work, out, train, {**common, "RANK": str(r), "LOCAL_RANK": str(r)}, waits_at=waits_at) for r in range(world)
    ]


def killed(work: Path, out: Path, train: Mapping[str, Any], *, kills: int, seed: int) -> tuple[list[int], Any]:
    """Train, killed at random moments, each time going on with another number of workers, until it is done.

    Returns:
        The steps that were done when each kill came, and what the run came to.
    """
    rng = random.Random(seed)
    steps = train.get("steps", TRAIN.steps)
    at = []
    for step in sorted(rng.choices(range(steps), k=kills)):
        changed = {"workers": rng.randint(1, 3), "cache_mib": rng.choice((0, 1, 64))}
        # A run that ended before the kill would not be one that was killed: it waits after its last step.
        run = Run(work, out, {**train, **changed}, waits_at=steps)
        if run.reaches(step):
            time.sleep(rng.uniform(0, 0.05))  # anywhere in the steps, validations and saves that follow
            at.append(step)
        run.kill()
    return at, Run(work, out, train).ends()
