"""The state of a run: all that a step changes and a checkpoint holds."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cusa.errors import CusaError, DataError, StaleError
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.manifests.words import counted
from cusa.models.students.base import Student
from cusa.train import checkpoint, ranks
from cusa.train.average import Average
from cusa.train.config import TrainConfig
from cusa.train.data.batch import Batch, Substitute
from cusa.train.data.judged import JudgedPairs
from cusa.train.data.mixture.joined import JoinedSplit
from cusa.train.learned import frozen_digest, learned_state, load_learned
from cusa.train.losses import CUSALoss
from cusa.train.optimizers.choose import make_optimizer
from cusa.train.overlap.gradients import Gradients
from cusa.train.overlap.unread import NEVER, Problem, Unread
from cusa.train.overlap.writing import Writer, snapshot
from cusa.train.prepare import train_mode
from cusa.train.validation import Best

CHECKPOINTS_FOLDER = "checkpoints"


class Session:
    """One run in progress.

    Args:
        config: optimiser and checkpoints.
        student: on its device; trained in place.
        loss: on the same device.
        out: the run's folder.
        identity: settings and inputs that its checkpoints belong to.
        on_device: teacher tables that are on the device whole, by the loss's names for their rows.
        judged: human judgements of the split's pairs, on the device; None where the loss does not use them.
        pair_weights: (captions,) how much each pair counts, on the device; None where all count alike.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        student: Student,
        loss: CUSALoss,
        out: Path,
        identity: checkpoint.Identity,
        on_device: Mapping[str, Tensor] | None = None,
        judged: JudgedPairs | None = None,
        pair_weights: Tensor | None = None,
    ) -> None:
        self.config = config
        self.student = student
        self.loss = loss.train()
        self.device = next(student.parameters()).device
        self.on_device = on_device or {}
        self.judged = judged
        self.pair_weights = pair_weights
        train_mode(student, config.freeze)
        ranks.share_weights(student)
        self.gradients = Gradients(student.parameters(), loss.parameters())
        self.optimizer = make_optimizer(student, loss, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.average = Average(student, config.ema) if config.ema else None
        self.best = Best(out, monitor=config.monitor)
        self.done = 0
        self.started_at = 0
        self.last: dict[str, float] = {}
        self.notes: tuple[str, ...] = ()
        self.bad: dict[str, tuple[str, str]] = {}
        """Image key -> shard and reason, of images that could not be decoded."""
        self.unread = Unread()
        """Losses since the last `look`."""
        self._substitutes: list[Substitute] = []
        self.seen = 0
        """A sum over all pairs seen of a digest of step and caption key, modulo 2^64: equal for equal sequences."""
        self._out, self._out_is = out, _identify(out)
        self._folder = out / CHECKPOINTS_FOLDER
        self._saved_at = 0
        self._writer, self._writing = Writer(), 0
        self._identity = identity
        self._frozen = frozen_digest(student)

    @property
    def last_checkpoint(self) -> Path | None:
        """The folder of the checkpoint last written or read."""
        return self._folder / f"step-{self._saved_at:09d}" if self._saved_at else None

    def resume(self, *, allow_changed: Collection[str] = (), must: bool = False) -> None:
        """Load the latest intact checkpoint, if there is one.

        Args:
            allow_changed: recipe keys and inputs that may differ from the checkpoint's.
            must: refuse to start at step 0.

        Raises:
            ConfigError: if `allow_changed` names what no checkpoint depends on.
            DataError: if none can be read, or it holds another model, or ranks see different ones.
            StaleError: if it belongs to another recipe, split or teacher.
        """
        if self._folder.is_dir() and ranks.rank() == 0:
            store.sweep(self._folder)
        self.done, state, self.notes = checkpoint.load(
            self._folder, identity=self._identity, allow_changed=allow_changed
        )
        steps_of_ranks = ranks.gather_values(self.done)
        if len({*steps_of_ranks}) > 1:
            raise DataError(
                f"The ranks find different checkpoints in {self._folder}: steps {steps_of_ranks}. All of them must see "
                "the same folder.",
                path=self._folder,
            )
        self.started_at = self._saved_at = self.done
        if not state:
            if must:
                raise DataError(
                    f"{self._folder} holds no checkpoint to go on from. Check --out, or leave --resume auto.",
                    path=self._folder,
                )
            return
        if state["frozen"] != self._frozen:
            raise StaleError(
                f"{self._folder} goes with other frozen weights: what student.name names, or a seed, has changed "
                "since. Bring the old one back, or start again with --force.",
                path=self._folder,
            )
        kept = ("params", "lr")
        configured = [
            {name: group[name] for name in group if name not in kept} for group in self.optimizer.param_groups
        ]
        try:
            load_learned(self.student, state["student"])
            self.loss.load_state_dict(state["loss"])
            if state["optimizer_name"] == self.config.optimizer:
                self.optimizer.load_state_dict(state["optimizer"])
            else:
                self.notes += (
                    f"The state of {state['optimizer_name']} means nothing to {self.config.optimizer}, "
                    "which starts anew.",
                )
            if self.average is not None:
                self.average = Average(self.student, self.config.ema)  # where there was none before: of these weights
                self.average.load_state_dict(state["average"] or self.average.state_dict())
        except (RuntimeError, ValueError, KeyError) as error:
            raise DataError(
                f"{self._folder} holds the state of another model: {str(error).splitlines()[0]} "
                "Choose another --out, or start again with --force.",
                path=self._folder,
            ) from error
        for group, options in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(options)  # the present recipe's, where a change was allowed
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._set_random_state([state["random"], *state["random_of_other_ranks"]])
        self.bad = dict(state["bad"])
        self.seen = state["seen"] if ranks.rank() == 0 else 0
        self.last = dict(state["last"])
        if self.best.folder.is_dir():
            self.best.step, self.best.values = state["best_step"], dict(state["best"])

    def save(self) -> None:
        """Begin to write a checkpoint on rank 0, with the random states of all ranks; training goes on meanwhile.

        The state is copied first. `saved` waits until it is written; so does the next `save`.

        Raises:
            DataError: on every rank, if the one before could not be written.
        """
        self.saved()
        gathered = ranks.gather_values((checkpoint.random_state() if ranks.rank() else {}, self.seen))
        self.seen = sum(seen for _, seen in gathered) % (1 << 64) if ranks.rank() == 0 else 0
        self._writing = self.done
        if ranks.rank() == 0:
            state = {
                "student": learned_state(self.student),
                "frozen": self._frozen,
                "loss": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "optimizer_name": self.config.optimizer,
                "scaler": self.scaler.state_dict(),
                "average": {} if self.average is None else self.average.state_dict(),
                "random": checkpoint.random_state(),
                "random_of_other_ranks": [random for random, _ in gathered[1:]],
                "best_step": self.best.step,
                "best": self.best.values,
                "bad": self.bad,
                "seen": self.seen,
                "last": self.last,
            }
            write = partial(
                checkpoint.save,
                self._folder,
                step=self.done,
                state=snapshot(state),
                identity=self._identity,
                keep=self.config.keep_checkpoints,
                also_keep=self.best.step,
            )

            def work() -> None:
                self.require_folder()
                write()

            self._writer.start(work)

    def saved(self) -> None:
        """Wait until the checkpoint that was begun is written, on all ranks.

        Raises:
            DataError: on every rank, if it could not be written.
        """
        if not self._writing:
            return
        refusal = ""
        try:
            self._writer.wait()
        except CusaError as error:
            if ranks.world() == 1:
                raise
            refusal = str(error)
        refusal = ranks.gather_values(refusal)[0]
        if refusal:
            raise DataError(refusal, path=self._folder)
        self._saved_at, self._writing = self._writing, 0

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end; ranks do not wait for each other."""
        self._writer.close()

    def require_folder(self) -> None:
        """Make sure, on the rank that writes, that the run's folder is still the one it started in.

        Raises:
            DataError: if it was removed, or another folder took its place.
        """
        if ranks.rank() == 0 and _identify(self._out) != self._out_is:
            raise DataError(
                f"{self._out} was removed or replaced while step {self.done} was computed, so nothing more is written "
                "there. Restore it, or start again with the same command.",
                path=self._out,
            )

    @contextmanager
    def validated(self) -> Iterator[Student]:
        """Yield the student as it is validated and saved: with averaged weights where `train.ema` is set."""
        if self.average is None:
            yield self.student
        else:
            with self.average.in_place():
                yield self.student
        train_mode(self.student, self.config.freeze)

    def saw(self, batch: Batch) -> None:
        """Record a batch: its keys, and the images that could not be decoded."""
        for key in batch.keys:
            digest = hashlib.blake2b(f"{batch.step}/{key}".encode(), digest_size=8).digest()
            self.seen = (self.seen + int.from_bytes(digest, "little")) % (1 << 64)
        self._substitutes += batch.substitutes

    def look(self, split: Split | JoinedSplit, *, wish: bool = False) -> bool:
        """Look at what the steps since the last look left, on all ranks; nothing may be saved without it.

        This is where the host waits for the device, and ranks for each other: once for many steps.

        Args:
            split: the images that count.
            wish: whether this rank is asked to stop.

        Returns:
            Whether any rank is asked to stop.

        Raises:
            DataError: on all ranks, if a loss is no finite number (the first such step and the keys of its batch are
                named), or the share of images that cannot be decoded is above `train.max_undecodable`.
        """
        problem = self.unread.read()
        nearest, undecodable, stop = ranks.highest((-problem.step, len(self._substitutes), wish), self.device)
        if nearest > -NEVER:
            theirs = ranks.gather_values((problem.step, problem.keys, problem.terms))
            raise self._no_number(Problem(*min(theirs, key=lambda one: one[0])))
        if undecodable:
            everyone = ranks.gather_values(self._substitutes)
            self.bad |= {one.key: (one.shard, one.reason) for substitutes in everyone for one in substitutes}
            self._substitutes = []
        if len(self.bad) > self.config.max_undecodable * split.num_images:
            key, (shard, reason) = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} of {split.num_images} images cannot be decoded, more than train.max_undecodable="
                f"{self.config.max_undecodable} allows; the first is {key} in {split.folder / shard}: {reason}. "
                "Make the shards again with `cusa shard ... --force`, or allow more.",
                keys=tuple(self.bad),
            )
        return bool(stop)

    def _no_number(self, problem: Problem) -> DataError:
        self.saved()
        first, checkpoint = ", ".join(problem.keys[:8]), self.last_checkpoint
        way_back = f" The last good checkpoint is {checkpoint}." if checkpoint else ""
        return DataError(
            f"The loss is no finite number at step {problem.step} ({problem.terms}). The batch begins with {first}."
            f"{way_back} Lower train.lr, set train.clip_norm=1, or look at those images and captions.",
            step=problem.step,
            keys=problem.keys,
        )

    def remarks(self) -> tuple[str, ...]:
        """Return the notes of the run for a person, in full sentences."""
        notes = self.notes
        if self.best.passed_over:
            steps = ", ".join(map(str, self.best.passed_over))
            notes += (f"Validation gave no finite {self.config.monitor} at step {steps}; that model was passed over.",)
        if not self.bad:
            return notes
        reasons: Counter[tuple[str, str]] = Counter(self.bad.values())
        listed = "; ".join(f"{n} in {shard}: {reason}" for (shard, reason), n in reasons.most_common(5))
        return (
            *notes,
            f"{counted(len(self.bad), 'image')} could not be decoded and others stood in ({listed}).",
        )

    def _set_random_state(self, states: list[dict[str, Any]]) -> None:
        rank = ranks.rank()
        if rank < len(states):
            checkpoint.set_random_state(states[rank])
        else:  # this rank was not there when the checkpoint was written
            checkpoint.seed_all(self.config.seed + rank + self.done)


def _identify(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of the same name; None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def settings(**configs: Any) -> dict[str, Any]:
    """Return configurations by dotted recipe key, without the keys that a resumed run may change."""
    dotted: dict[str, Any] = {}
    for name, config in configs.items():
        free: frozenset[str] = getattr(config, "FREE", frozenset())
        for key, value in config.model_dump(mode="json").items():
            if isinstance(value, dict):
                dotted |= {f"{name}.{key}.{part}": number for part, number in value.items()}
            elif key not in free:
                dotted[f"{name}.{key}"] = value
    return dotted
