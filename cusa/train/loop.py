"""The training loop: steps in order, validation, checkpoints, metrics; run again, it goes on where it was.

Legend: B pairs a step.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, StoppedError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.students.base import Student
from cusa.train import checkpoint, ranks, schedule, step
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.data.reading import Data
from cusa.train.data.stream import available_threads, batches
from cusa.train.metrics import METRICS_FILE, TENSORBOARD_FOLDER, Metrics, OnMetrics, Pace
from cusa.train.prepare import prepare
from cusa.train.session import CHECKPOINTS_FOLDER, Session, settings
from cusa.train.terms import make_loss
from cusa.train.validation import MODEL_FOLDER, Validate, measure

__all__ = ["CHECKPOINTS_FOLDER", "METRICS_FILE", "MODEL_FOLDER", "Trained", "run"]


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
    seen: str
    """A fingerprint of which pairs were seen in which step, the same for every number of workers and ranks."""


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
    also_settings: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    force: bool = False,
    must_resume: bool = False,
    allow_changed: Collection[str] = (),
    on_event: OnEvent = ignore,
    on_metrics: OnMetrics = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train a student on the pairs of a split.

    Writes `out/checkpoints`, `out/metrics.parquet`, `out/tensorboard` and `out/model` (the best by validation). Killed
    at any moment and called again with the same arguments it goes on from its last checkpoint; on a CPU it ends with
    the same bits. Started by `torchrun`, every rank calls it; rank 0 writes, and the result is that of one process with
    the same global batch, rounding apart.

    Args:
        config: order, optimiser, schedule, checkpoints.
        loss: weights, temperatures, modes.
        student: fresh from `cusa.models.student.create`; trained in place.
        split: pairs to train on.
        out: the run's folder.
        teacher_image: name of the image teacher; empty = the split's only one. Not read where the loss needs none.
        teacher_text: likewise.
        digests: what else the run depends on, name -> digest; a checkpoint with others is refused.
        also_settings: what else of the recipe it depends on, dotted key -> value; likewise.
        validate: called every `validate_every` steps and at the end.
        force: start anew, whatever is there.
        must_resume: refuse to start where there is no checkpoint to go on from.
        allow_changed: recipe keys and inputs in which a checkpoint may differ; see `checkpoint.load`.
        on_event: hears `("train", steps done, steps)`.
        on_metrics: hears every row of metrics.
        should_stop: asked after every step; when true, a checkpoint is saved and StoppedError raised.

    Returns:
        What the run came to.

    Raises:
        ConfigError: if the recipe asks what the student or the split cannot give.
        DataError: if the loss is no number (the keys of the batch are named), too many images cannot be decoded, or
            another rank went away.
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
    if student.has_own_loss or student.scores_pairs:
        _refuse_what_pairs_cannot(config, loss, student)
    if force and must_resume:
        raise ConfigError("--force starts anew and --resume must goes on: leave one of them out.", key="resume")
    before = checkpoint.random_state()
    try:
        with ranks.joined(config.device) as device:
            first = ranks.rank() == 0
            if force and first:
                for name in (CHECKPOINTS_FOLDER, MODEL_FOLDER, TENSORBOARD_FOLDER):
                    store.remove_folder(out / name)
                (out / METRICS_FILE).unlink(missing_ok=True)
            ranks.barrier()
            data = Data.open(config, loss, split, student, {"image": teacher_image, "text": teacher_text}, out, device)
            identity = checkpoint.Identity(
                settings=settings(train=config, loss=loss) | dict(also_settings or {}),
                digests={"the training split": split.digest, **data.digests, **(digests or {})},
            )
            checkpoint.seed_all(config.seed + ranks.rank())
            prepare(student.to(device), config)
            objective = make_loss(loss).to(device)
            session = Session(
                config,
                student=student,
                loss=objective,
                out=out,
                identity=identity,
                on_device=data.on_device,
                judged=data.judged,
            )
            session.resume(allow_changed=allow_changed, must=must_resume)
            if ranks.world() > 1 and student.has_own_loss:
                session.notes += ("This student's own loss compares the pairs of each rank only, not of all ranks.",)
            if first:
                store.sweep(out)
            metrics = Metrics(out, done=session.done, on_metrics=on_metrics, wandb=config.wandb) if first else None
            with metrics or nullcontext():
                if metrics is not None:
                    session.notes += metrics.notes
                    if data.met and not session.done:
                        metrics.log(0, data.met)
                _train(
                    session,
                    data,
                    split,
                    metrics,
                    validate=validate,
                    on_event=on_event if first else ignore,
                    should_stop=should_stop,
                )
            best, seen = session.best, sum(ranks.everyones(session.seen)) % (1 << 64)
            return Trained(
                session.done,
                session.started_at,
                best.step,
                best.values,
                session.last,
                (*session.remarks(), *data.notes),
                f"{seen:016x}",
            )
    finally:
        checkpoint.set_random_state(before)


def _refuse_what_pairs_cannot(config: TrainConfig, loss: LossConfig, student: Student) -> None:
    """Refuse what acts in CUSALoss's InfoNCE alone, where the student scores pairs or brings a loss of its own."""
    kind = type(student).__name__
    if loss.false_negatives != "soft":
        raise ConfigError(
            f"loss.false_negatives is {loss.false_negatives!r}, which InfoNCE over embeddings knows what to do with; "
            f"{kind} scores pairs or brings a loss of its own. Set soft, or drop judged images with `cusa shard "
            "subset`.",
            key="loss.false_negatives",
        )
    if config.chunk:
        raise ConfigError(
            f"train.chunk is {config.chunk}, which needs embeddings that do not depend on the rest of the batch; "
            f"{kind} compares pairs as it encodes them. Set train.chunk=0, or train.accumulate for smaller parts.",
            key="train.chunk",
        )


def _train(
    session: Session,
    data: Data,
    split: Split,
    metrics: Metrics | None,
    *,
    validate: Validate | None,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
) -> None:
    """Take the steps that are left."""
    config, order = session.config, data.order
    steps = config.steps or config.epochs * order.steps_per_epoch
    validate_every = config.validate_every or order.steps_per_epoch
    checkpoint_every = config.checkpoint_every or validate_every
    on_event("train", session.done, steps)
    threads = config.workers or available_threads()
    first_part = session.done * config.accumulate
    with closing(batches(data.stream, first_part, steps * config.accumulate, threads=threads)) as flow:
        pace = Pace()
        coming = pace.around(flow)
        while session.done < steps:
            parts = list(islice(coming, config.accumulate))
            rate = schedule.cosine(
                session.done,
                steps=steps,
                lr=config.lr,
                min_lr=config.min_lr,
                warmup_steps=config.warmup_steps,
                steps_per_epoch=order.steps_per_epoch if config.schedule == "epoch" else None,
            )
            for part in parts:
                session.saw(part, split)
            terms = step.take(session, parts, rate=rate)
            session.done += 1
            done, last = session.done, session.done == steps
            if done % config.log_every == 0 or last or done == 1:
                session.last = step.describe(session, parts[-1], terms, rate=rate) | pace.read(session.device)
                if metrics is not None:
                    metrics.log(done, session.last)
                pace.start()
            if validate is not None and (done % validate_every == 0 or last):
                with session.validated() as student:
                    values = measure(student, validate)
                    session.best.consider(student, done, values)
                if metrics is not None:
                    metrics.log(done, {f"val.{name}": value for name, value in values.items()})
                pace.start()
            stopping = ranks.any_of(not last and should_stop(), session.device)
            if done % checkpoint_every == 0 or last or stopping:
                if metrics is not None:
                    metrics.save()  # first: resumed, rows after the checkpoint's step are dropped
                session.save()
            on_event("train", done, steps)
            if stopping:
                raise StoppedError(
                    f"Training was stopped after step {done} of {steps}; everything is saved. "
                    "Run the same command again to go on.",
                    step=done,
                )
    best = session.best
    if validate is None and (best.step != steps or not best.folder.is_dir()):
        with session.validated() as student:
            best.keep(student, steps)
    ranks.barrier()
