"""The training loop: steps in order, validation, checkpoints, metrics; run again, it goes on where it was.

Legend: B pairs a step.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from cusa.errors import ConfigError, StoppedError
from cusa.manifests import store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.models.student import Student
from cusa.train import checkpoint, schedule, step
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.gather import TeacherRows
from cusa.train.metrics import METRICS_FILE, TENSORBOARD_FOLDER, Metrics, OnMetrics, Pace
from cusa.train.objective_from_config import make_loss
from cusa.train.order import Order
from cusa.train.session import CHECKPOINTS_FOLDER, Session, settings
from cusa.train.stream import PairStream, available_threads, batches
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
        for name in (CHECKPOINTS_FOLDER, MODEL_FOLDER, TENSORBOARD_FOLDER):
            store.remove_folder(out / name)
        (out / METRICS_FILE).unlink(missing_ok=True)
    rows = {}
    if loss.alpha or loss.beta:
        for modality, name in (("image", teacher_image), ("text", teacher_text)):
            teacher = tables.choose_teacher(split, modality, name)
            rows[modality] = TeacherRows(split, teacher, fallback=out / "cache")
    identity = checkpoint.Identity(
        settings=settings(train=config, loss=loss),
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
        session = Session(
            config, student=student.to(device), loss=make_loss(loss).to(device), out=out, identity=identity
        )
        session.resume()
        store.sweep(out)
        metrics = Metrics(out, done=session.done, on_metrics=on_metrics)
        session.notes += metrics.notes
        with metrics:
            _train(session, config, stream, order, split, steps, metrics, validate, on_event, should_stop)
        best = session.best
        return Trained(steps, session.started_at, best.step, best.values, session.last, session.remarks())
    finally:
        checkpoint.set_random_state(before)


def _train(
    session: Session,
    config: TrainConfig,
    stream: PairStream,
    order: Order,
    split: Split,
    steps: int,
    metrics: Metrics,
    validate: Validate | None,
    on_event: OnEvent,
    should_stop: Callable[[], bool],
) -> None:
    """Take the steps that are left."""
    validate_every = config.validate_every or order.steps_per_epoch
    checkpoint_every = config.checkpoint_every or validate_every
    on_event("train", session.done, steps)
    threads = config.workers or available_threads()
    with closing(batches(stream, session.done, steps, threads=threads)) as flow:
        pace = Pace()
        for batch in pace.around(flow):
            rate = schedule.cosine(
                session.done,
                steps=steps,
                lr=config.lr,
                min_lr=config.min_lr,
                warmup_steps=config.warmup_steps,
                steps_per_epoch=order.steps_per_epoch if config.schedule == "epoch" else None,
            )
            session.count_bad(batch, split, allowed=config.max_undecodable)
            terms = step.take(session, batch, config, rate=rate)
            session.done += 1
            done, last = session.done, session.done == steps
            if done % config.log_every == 0 or last or done == 1:
                session.last = step.describe(session, batch, terms, rate=rate) | pace.read()
                metrics.log(done, session.last)
                pace.start()
            if validate is not None and (done % validate_every == 0 or last):
                values = measure(session.student, validate)
                session.best.consider(session.student, done, values)
                metrics.log(done, {f"val.{name}": value for name, value in values.items()})
                pace.start()
            stopping = not last and should_stop()
            if done % checkpoint_every == 0 or last or stopping:
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
        best.keep(session.student, steps)
