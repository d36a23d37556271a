"""The state of a run: everything that a step changes and a checkpoint holds."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from cusa.errors import DataError
from cusa.manifests import store
from cusa.manifests.samples import Split
from cusa.models.student import Student
from cusa.train import checkpoint
from cusa.train.batch import Batch
from cusa.train.config import TrainConfig
from cusa.train.losses import CUSALoss
from cusa.train.optimizer import parameter_groups
from cusa.train.validation import Best

CHECKPOINTS_FOLDER = "checkpoints"


class Session:
    """One run in progress.

    Args:
        config: optimiser and checkpoints.
        student: on its device; trained in place.
        loss: on the same device.
        out: the run's folder.
        identity: what its checkpoints belong to.
    """

    def __init__(
        self, config: TrainConfig, *, student: Student, loss: CUSALoss, out: Path, identity: checkpoint.Identity
    ) -> None:
        self.student = student.train()
        self.loss = loss.train()
        self.device = next(student.parameters()).device
        named = [*student.named_parameters("student"), *loss.named_parameters("loss")]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(named, weight_decay=config.weight_decay, decay=config.decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            # One kernel a parameter: on a small model the unfused loop is a noticeable part of a step.
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.best = Best(out, monitor=config.monitor)
        self.done = 0
        self.started_at = 0
        self.last: dict[str, float] = {}
        self.notes: tuple[str, ...] = ()
        self.bad: dict[str, tuple[str, str]] = {}
        """Image key -> shard and reason, of images that could not be decoded."""
        self._folder = out / CHECKPOINTS_FOLDER
        self._saved_at = 0
        self._identity = identity
        self._keep = config.keep_checkpoints

    @property
    def last_checkpoint(self) -> Path | None:
        """The folder of the checkpoint last written or read."""
        return self._folder / f"step-{self._saved_at:09d}" if self._saved_at else None

    def resume(self) -> None:
        """Go on from the latest whole checkpoint, if there is one.

        Raises:
            DataError: if none can be read, or it holds another model.
            StaleError: if it belongs to another recipe, split or teacher.
        """
        if self._folder.is_dir():
            store.sweep(self._folder)
        self.done, state, self.notes = checkpoint.load(self._folder, identity=self._identity)
        self.started_at = self._saved_at = self.done
        if not state:
            return
        try:
            self.student.load_state_dict(state["student"])
            self.loss.load_state_dict(state["loss"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{self._folder} holds the state of another model: {str(error).splitlines()[0]} "
                "Choose another --out, or start again with --force.",
                path=self._folder,
            ) from error
        checkpoint.set_random_state(state["random"])
        self.bad = dict(state["bad"])
        self.last = dict(state["last"])
        if self.best.folder.is_dir():
            self.best.step, self.best.values = state["best_step"], dict(state["best"])

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoint.save(
            self._folder,
            step=self.done,
            state={
                "student": self.student.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": checkpoint.random_state(),
                "best_step": self.best.step,
                "best": self.best.values,
                "bad": self.bad,
                "last": self.last,
            },
            identity=self._identity,
            keep=self._keep,
            also_keep=self.best.step,
        )
        self._saved_at = self.done

    def count_bad(self, batch: Batch, split: Split, *, allowed: float) -> None:
        """Remember the images of a batch that could not be decoded.

        Raises:
            DataError: if they are more than `allowed`, a share of the split's images.
        """
        for substitute in batch.substitutes:
            self.bad[substitute.key] = (substitute.shard, substitute.reason)
        if len(self.bad) > allowed * split.num_images:
            key, (shard, reason) = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} of {split.num_images} images cannot be decoded, more than train.max_undecodable="
                f"{allowed} allows; the first is {key} in {split.folder / shard}: {reason}. "
                "Make the shards again with `cusa shard ... --force`, or allow more.",
                keys=tuple(self.bad),
            )

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should read of the run, in full sentences."""
        if not self.bad:
            return self.notes
        reasons: Counter[tuple[str, str]] = Counter(self.bad.values())
        listed = "; ".join(f"{n} in {shard}: {reason}" for (shard, reason), n in reasons.most_common(5))
        return (
            *self.notes,
            f"{len(self.bad)} images could not be decoded and others stood in for them ({listed}).",
        )


def settings(**configs: Any) -> dict[str, Any]:
    """Return configurations as dotted recipe keys, those that a resumed run may change left out."""
    found: dict[str, Any] = {}
    for name, config in configs.items():
        free: frozenset[str] = getattr(config, "FREE", frozenset())
        for key, value in config.model_dump(mode="json").items():
            if isinstance(value, dict):
                found |= {f"{name}.{key}.{part}": number for part, number in value.items()}
            elif key not in free:
                found[f"{name}.{key}"] = value
    return found
