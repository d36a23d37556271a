"""The training loop: steps in order, validation, checkpoints, metrics; run again, it goes on where it was.

Legend: B pairs a step.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from cusa.errors import ConfigError, CusaError, DataError, StoppedError, nearest
from cusa.manifests import schemas, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.ledger import peak_memory_bytes
from cusa.manifests.samples import Split
from cusa.models.student import Student
from cusa.train import checkpoint, schedule
from cusa.train.batch import Batch
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.gather import TeacherRows
from cusa.train.objective_from_config import make_loss
from cusa.train.optimizer import parameter_groups
from cusa.train.order import Order
from cusa.train.stream import PairStream, available_threads, batches

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Validate = Callable[[Student], Mapping[str, float]]
"""Measures a student, given in evaluation mode on its device: name -> number."""
OnMetrics = Callable[[int, Mapping[str, float]], None]
"""Hears of every row of metrics: steps done, name -> number."""

METRICS_FILE = "metrics.parquet"
MODEL_FOLDER = "model"
CHECKPOINTS_FOLDER = "checkpoints"


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    steps: int
    started_at: int
    """Steps that an earlier call had done already."""
    best_step: int
    """Steps done when the saved model was measured, or the last where nothing validates."""
    best: Mapping[str, float]
    """Its validation; empty where nothing validates."""
    last: Mapping[str, float]
    """The last row of training metrics."""
    notes: tuple[str, ...]
    """Full sentences a person should read: broken checkpoints, images that could not be read."""


def run(
    config: TrainConfig,
    loss: LossConfig,
    *,
    student: Student,
    split: Split,
    out: Path,
    teacher_image: str = "",
    teacher_text: str = "",
    digests: Mapping[str, str] | None = None,
    validate: Validate | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
    on_metrics: OnMetrics = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a student on the pairs of a split.

    Writes `out/checkpoints`, `out/metrics.parquet`, `out/tensorboard` and `out/model` (the best by validation). Killed
    at any moment and called again with the same arguments it goes on from its last checkpoint; on a CPU it ends with
    the same bits.

    Args:
        config: order, optimiser, schedule, checkpoints.
        loss: weights, temperatures, modes.
        student: fresh from `cusa.models.student.create`; trained in place.
        split: pairs to train on.
        out: the run's folder.
        teacher_image: name of the image teacher; empty = the split's only one. Not read where the loss needs none.
        teacher_text: likewise.
        digests: what else the run depends on, name -> digest; a checkpoint with others is refused.
        validate: called every `validate_every` steps and at the end.
        force: start anew, whatever is there.
        on_event: hears `("train", steps done, steps)`.
        on_metrics: hears every row of metrics.
        should_stop: asked after every step; when true, a checkpoint is saved and StoppedError raised.

    Returns:
        What the run came to.

    Raises:
        ConfigError: if the recipe asks what the student or the split cannot give.
        DataError: if the loss is no number (the keys of the batch are named), or too many images cannot be decoded.
        StaleError: if `out` holds checkpoints of another recipe, split or teacher.
        StoppedError: if it was asked to stop.
    """
    if loss.beta and not student.has_uni:
        raise ConfigError(
            f"loss.beta is {loss.beta}, but the student has no uni-modal heads. Set student.uni_head=auto, or "
            "loss.beta=0.",
            key="loss.beta",
        )
    if not (loss.infonce_weight or loss.alpha or loss.beta):
        raise ConfigError("All weights of the loss are 0. Set loss.infonce_weight, loss.alpha or loss.beta.")
    order = Order(split.num_captions, config.batch, config.seed, config.drop_last)
    steps = config.steps or config.epochs * order.steps_per_epoch
    if force:
        for name in (CHECKPOINTS_FOLDER, MODEL_FOLDER, "tensorboard"):
            store.remove_folder(out / name)
        (out / METRICS_FILE).unlink(missing_ok=True)
    rows = {}
    if loss.alpha or loss.beta:
        for modality, name in (("image", teacher_image), ("text", teacher_text)):
            teacher = tables.choose_teacher(split, modality, name)
            rows[modality] = TeacherRows(split, teacher, fallback=out / "cache")
    identity = checkpoint.Identity(
        settings=_settings(config, loss),
        digests={
            "the training split": split.digest,
            **{f"the {modality} teacher": teacher.digest for modality, teacher in rows.items()},
            **(digests or {}),
        },
    )
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stream = PairStream(
        split,
        order,
        student,
        teacher_image=rows.get("image"),
        teacher_text=rows.get("text"),
        cache_bytes=config.cache_mib << 20,
    )
    before = checkpoint.random_state()
    try:
        checkpoint.seed_all(config.seed)
        session = _Session(config, loss, student.to(device), device, out, identity, steps, validate)
        session.resume()
        session.train(stream, order, split, on_event, on_metrics, should_stop)
        return session.result()
    finally:
        checkpoint.set_random_state(before)


class _Session:
    """One run in progress: everything that a checkpoint holds, and what it is made of."""

    def __init__(
        self,
        config: TrainConfig,
        loss: LossConfig,
        student: Student,
        device: torch.device,
        out: Path,
        identity: checkpoint.Identity,
        steps: int,
        validate: Validate | None,
    ) -> None:
        self._config = config
        self._student = student.train()
        self._loss = make_loss(loss).to(device).train()
        named = [*self._student.named_parameters("student"), *self._loss.named_parameters("loss")]
        self._optimizer = torch.optim.AdamW(
            parameter_groups(named, weight_decay=config.weight_decay, decay=config.decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            # One kernel a parameter: on a small model the unfused loop is a noticeable part of a step.
            fused=device.type in ("cpu", "cuda"),
        )
        self._device = device
        self._out = out
        self._identity = identity
        self._steps = steps
        self._validate = validate
        self._done = 0
        self._started_at = 0
        self._saved_at = -1
        self._best_step = 0
        self._best: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._bad: dict[str, tuple[str, str]] = {}  # image key -> shard, reason
        self._rows: list[tuple[int, str, float]] = []
        self._notes: tuple[str, ...] = ()

    def resume(self) -> None:
        """Go on from the latest whole checkpoint, if there is one."""
        folder = self._out / CHECKPOINTS_FOLDER
        if folder.is_dir():
            store.sweep(folder)
        store.sweep(self._out)
        self._done, state, self._notes = checkpoint.load(folder, identity=self._identity)
        self._started_at = self._done
        if not state:
            return
        try:
            self._student.load_state_dict(state["student"])
            self._loss.load_state_dict(state["loss"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{folder} holds the state of another model: {str(error).splitlines()[0]} "
                "Choose another --out, or start again with --force.",
                path=folder,
            ) from error
        checkpoint.set_random_state(state["random"])
        self._saved_at = self._done
        self._bad = dict(state["bad"])
        self._last = dict(state["last"])
        if (self._out / MODEL_FOLDER).is_dir():
            self._best_step, self._best = state["best_step"], dict(state["best"])
        self._rows = self._earlier_rows()

    def train(
        self,
        stream: PairStream,
        order: Order,
        split: Split,
        on_event: OnEvent,
        on_metrics: OnMetrics,
        should_stop: Callable[[], bool],
    ) -> None:
        """Take the steps that are left."""
        config = self._config
        validate_every = config.validate_every or order.steps_per_epoch
        checkpoint_every = config.checkpoint_every or validate_every
        on_event("train", self._done, self._steps)
        threads = config.workers or available_threads()
        with (
            _tensorboard(self._out / "tensorboard", self._done) as writer,
            closing(batches(stream, self._done, self._steps, threads=threads)) as flow,
        ):
            waiting = _Stopwatch()
            whole = _Stopwatch().start()
            logged_at = self._done

            def log(values: Mapping[str, float]) -> None:
                self._rows += [(self._done, name, float(value)) for name, value in values.items()]
                for name, value in values.items():
                    writer.add_scalar(name.replace(".", "/", 1), value, self._done)
                on_metrics(self._done, values)

            for batch in waiting.around(flow):
                rate = schedule.cosine(
                    self._done,
                    steps=self._steps,
                    lr=config.lr,
                    min_lr=config.min_lr,
                    warmup_steps=config.warmup_steps,
                    steps_per_epoch=order.steps_per_epoch if config.schedule == "epoch" else None,
                )
                self._count_bad(batch, split)
                terms, norm = self._step(batch, rate)
                self._done += 1
                last = self._done == self._steps
                if self._done % config.log_every == 0 or last or self._done == 1:
                    seconds = whole.seconds()
                    values = {name: float(term) for name, term in terms.items()}
                    values |= self._describe(batch, rate, norm)
                    values["samples_per_second"] = (self._done - logged_at) * len(batch.keys) / max(seconds, 1e-9)
                    values["data_wait_share"] = waiting.seconds() / max(seconds, 1e-9)
                    values["peak_memory_bytes"] = float(peak_memory_bytes())
                    self._last = values
                    log(values)
                    waiting.reset()
                    whole.start()
                    logged_at = self._done
                if self._validate is not None and (self._done % validate_every == 0 or last):
                    log(self._measure())
                    whole.start()
                    waiting.reset()
                    logged_at = self._done
                stopping = not last and should_stop()
                if self._done % checkpoint_every == 0 or last or stopping:
                    self._save()
                on_event("train", self._done, self._steps)
                if stopping:
                    raise StoppedError(
                        f"Training was stopped after step {self._done} of {self._steps}; everything is saved. "
                        "Run the same command again to go on.",
                        step=self._done,
                    )
        if self._validate is None and (self._best_step != self._done or not (self._out / MODEL_FOLDER).is_dir()):
            self._keep_model()

    def result(self) -> Trained:
        """Sum up."""
        notes = self._notes
        if self._bad:
            reasons = Counter(self._bad.values())
            listed = "; ".join(f"{n} in {shard}: {reason}" for (shard, reason), n in reasons.most_common(5))
            notes += (f"{len(self._bad)} images could not be decoded and others stood in for them ({listed}).",)
        return Trained(self._done, self._started_at, self._best_step, self._best, self._last, notes)

    def _step(self, batch: Batch, rate: float) -> tuple[dict[str, Tensor], Tensor | None]:
        """Take one step; return the loss terms, and the norm of the gradients where it is known."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pixels = self._student.pixels(batch.images.to(self._device))
        tokens = {name: values.to(self._device) for name, values in batch.tokens.items()}
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._config.precision == "bf16"):
            embeddings = self._student(pixels, tokens)
        terms: dict[str, Tensor] = self._loss(
            **embeddings, **self._teachers(batch), image_ids=self._move(batch.image_ids)
        )
        total = terms["loss"]
        if not math.isfinite(float(total.detach())):
            first = ", ".join(batch.keys[:8])
            known = self._out / CHECKPOINTS_FOLDER / f"step-{self._saved_at:09d}"
            kept = f" The last good checkpoint is {known}." if self._saved_at > 0 else ""
            parts = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
            raise DataError(
                f"The loss is no finite number at step {self._done + 1} ({parts}). The batch begins with {first}."
                f"{kept} Lower train.lr, set train.clip_norm=1, or look at those images and captions.",
                step=self._done + 1,
                keys=batch.keys,
            )
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = None
        if self._config.clip_norm:
            everything = [p for group in self._optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(everything, self._config.clip_norm)
        self._optimizer.step()
        return {name: term.detach() for name, term in terms.items()}, norm

    def _describe(self, batch: Batch, rate: float, norm: Tensor | None) -> dict[str, float]:
        """Return the numbers beside the loss terms: a function of state and batch alone."""
        teachers = self._teachers(batch)
        described = self._loss.diagnostics(
            teacher_image=teachers.get("teacher_image"), teacher_text=teachers.get("teacher_text")
        )
        values = {name: float(value) for name, value in described.items()}
        weights = self._loss.effective_weights(len(batch.keys))
        values |= {f"effective_weight.{name}": weight for name, weight in weights.items() if weight}
        values["lr"] = rate
        if norm is not None:
            values["grad_norm"] = float(norm)
        values["undecodable"] = float(len(self._bad))
        return values

    def _teachers(self, batch: Batch) -> dict[str, Tensor]:
        both = {"teacher_image": batch.teacher_image, "teacher_text": batch.teacher_text}
        return {name: self._move(rows) for name, rows in both.items() if rows is not None}

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _count_bad(self, batch: Batch, split: Split) -> None:
        for substitute in batch.substitutes:
            self._bad[substitute.key] = (substitute.shard, substitute.reason)
        if len(self._bad) > self._config.max_undecodable * split.num_images:
            key, (shard, reason) = next(iter(self._bad.items()))
            raise DataError(
                f"{len(self._bad)} of {split.num_images} images cannot be decoded, more than train.max_undecodable="
                f"{self._config.max_undecodable} allows; the first is {key} in {split.folder / shard}: {reason}. "
                "Make the shards again with `cusa shard ... --force`, or allow more.",
                keys=tuple(self._bad),
            )

    def _measure(self) -> dict[str, float]:
        """Validate without touching the training's random numbers; keep the model if it is the best so far."""
        assert self._validate is not None
        state = checkpoint.random_state()
        self._student.eval()
        with torch.no_grad():
            values = {name: float(value) for name, value in self._validate(self._student).items()}
        self._student.train()
        checkpoint.set_random_state(state)
        monitor = self._config.monitor
        if monitor not in values:
            raise ConfigError(
                f"train.monitor is {monitor!r}, which validation does not give. {nearest(monitor, values)}.",
                key="train.monitor",
            )
        if not self._best or values[monitor] > self._best[monitor]:
            self._best = values
            self._keep_model()
        return {f"val.{name}": value for name, value in values.items()}

    def _keep_model(self) -> None:
        self._best_step = self._done
        self._student.save(self._out / MODEL_FOLDER)

    def _save(self) -> None:
        """Write metrics, then the checkpoint: resumed, rows after the checkpoint's step are dropped."""
        columns = list(zip(*self._rows, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schemas.METRICS, strict=True)]
        store.write_table(self._out / METRICS_FILE, pa.Table.from_arrays(arrays, schema=schemas.METRICS))
        checkpoint.save(
            self._out / CHECKPOINTS_FOLDER,
            step=self._done,
            state={
                "student": self._student.state_dict(),
                "loss": self._loss.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "random": checkpoint.random_state(),
                "best_step": self._best_step,
                "best": self._best,
                "bad": self._bad,
                "last": self._last,
            },
            identity=self._identity,
            keep=self._config.keep_checkpoints,
            also_keep=self._best_step,
        )
        self._saved_at = self._done

    def _earlier_rows(self) -> list[tuple[int, str, float]]:
        """Return the rows of metrics up to the checkpoint."""
        try:
            table = store.read_table(self._out / METRICS_FILE, columns=schemas.METRICS.names)
        except CusaError as error:
            self._notes += (f"The metrics before step {self._done} are lost: {error}",)
            return []
        table = table.filter(pc.less_equal(table["step"], self._done))
        return list(zip(*(table[name].to_pylist() for name in schemas.METRICS.names), strict=True))


class _Stopwatch:
    """Seconds since `start`, or seconds spent waiting for an iterator."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._waits = False

    def start(self) -> "_Stopwatch":
        self._start = time.perf_counter()
        return self

    def reset(self) -> None:
        self._waited = 0.0

    def seconds(self) -> float:
        return self._waited if self._waits else time.perf_counter() - self._start

    def around(self, flow: Iterator[Batch]) -> Iterator[Batch]:
        self._waits = True
        while True:
            asked = time.perf_counter()
            batch = next(flow, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


@contextmanager
def _tensorboard(folder: Path, done: int) -> Iterator["SummaryWriter"]:
    from torch.utils.tensorboard import SummaryWriter

    # Points that a killed run wrote after its last checkpoint are hidden: they come again.
    writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
    try:
        yield writer
    finally:
        writer.close()


def _settings(config: TrainConfig, loss: LossConfig) -> dict[str, Any]:
    """Return what a checkpoint belongs to, as dotted recipe keys."""
    train = {key: value for key, value in config.model_dump(mode="json").items() if key not in config.FREE}
    return {
        f"{name}.{key}": value
        for name, part in (("train", train), ("loss", _flat(loss)))
        for key, value in part.items()
    }


def _flat(loss: LossConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in loss.model_dump(mode="json").items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": part for name, part in value.items()}
        else:
            found[key] = value
    return found
