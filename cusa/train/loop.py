"""The training loop: steps, validation, checkpoints, metrics; called again, it continues from its last checkpoint.

Legend: B pairs a step.
"""

from collections.abc import Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError, StoppedError
from cusa.manifests.events import SILENT, Callbacks, ignore
from cusa.manifests.storage import store
from cusa.models.students.base import Student
from cusa.train import checkpoint, ranks, schedule, step
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.data.calibrated import Calibrated
from cusa.train.data.mixture.opened import choose_tables
from cusa.train.data.mixture.plan import plan_draws
from cusa.train.data.order import Order
from cusa.train.data.reading import Data
from cusa.train.data.stream import available_threads, batches
from cusa.train.data.training import Training, TrainingMixture, TrainingSplit
from cusa.train.losses import CUSALoss
from cusa.train.metrics import METRICS_FILE, TENSORBOARD_FOLDER, Metrics, Pace
from cusa.train.optimizers.rates import tower_rates
from cusa.train.overlap.transfer import on_device
from cusa.train.prepare import prepare
from cusa.train.session import CHECKPOINTS_FOLDER, Session, settings
from cusa.train.terms import make_loss
from cusa.train.validation import MODEL_FOLDER, Validate, measure

__all__ = [
    "CHECKPOINTS_FOLDER",
    "METRICS_FILE",
    "MODEL_FOLDER",
    "Start",
    "Trained",
    "Training",
    "TrainingMixture",
    "TrainingSplit",
    "run",
]


@dataclass(frozen=True)
class Start:
    """How a run starts, and what identifies it beside its configuration, its split and its teachers."""

    force: bool = False
    """Remove what an earlier call left in the run's folder, and start at step 0."""
    must_resume: bool = False
    """Refuse to start at step 0."""
    allow_changed: Collection[str] = ()
    """Recipe keys and inputs in which a checkpoint may differ; see `checkpoint.load`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings that identify the run, dotted recipe key -> value; a checkpoint with others is refused."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Further inputs that identify the run, name -> digest; likewise."""


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    steps: int
    started_at: int
    """Steps done by earlier calls."""
    best_step: int
    """Steps done when the saved model was validated; the last step without validation."""
    best: Mapping[str, float]
    """The metrics of its validation; empty without validation."""
    last: Mapping[str, float]
    """The last row of training metrics."""
    notes: tuple[str, ...]
    """Full sentences a person should read: broken checkpoints, images that could not be read."""
    seen: str
    """A fingerprint of the pairs seen in every step, equal for every number of workers and ranks."""


def run(
    config: TrainConfig,
    loss: LossConfig,
    *,
    student: Student,
    data: Training,
    out: Path,
    start: Start | None = None,
    validate: Validate | None = None,
    callbacks: Callbacks = SILENT,
) -> Trained:
    """Train a student on the pairs of a split, or of several.

    Writes `out/checkpoints`, `out/metrics.parquet`, `out/tensorboard` and `out/model` (the best by validation). A run
    that was killed at any moment and is called again with the same arguments continues from its last checkpoint; on a
    CPU it ends with the same bits. Started by `torchrun`, every rank calls this function; rank 0 writes, and the result
    equals that of one process with the same global batch but for rounding.

    Args:
        config: order, optimiser, schedule, checkpoints.
        loss: weights, temperatures, modes.
        student: fresh from `cusa.models.student.create`; trained in place.
        data: the split to train on, and its teachers; or several of them.
        out: the run's folder.
        start: how the run starts; None: from its last checkpoint, if there is one.
        validate: called every `validate_every` steps and after the last one.
        callbacks: `on_event` is called with `("train", steps done, steps)` after every step, `on_metrics` with every
            row of metrics; when `should_stop` returns true after a step, a checkpoint is saved and StoppedError raised
            (of several ranks at the next step at which they speak with each other: `log_every`).

    Returns:
        The steps, the best validation, the last metrics.

    Raises:
        ConfigError: if the configuration does not fit the student or the split.
        DataError: if the loss is no number (the keys of the batch are named), too many images cannot be decoded, or
            another rank went away, or the run's folder is removed, or no validation is finite.
        StaleError: if `out` holds checkpoints of another recipe, split or teacher.
        StoppedError: if `should_stop` returned true.
    """
    start = start or Start()
    if loss.beta and not student.has_uni:
        raise ConfigError(
            f"loss.beta is {loss.beta}, but the student has no uni-modal heads. Set student.uni_head=auto, or "
            "loss.beta=0.",
            key="loss.beta",
        )
    check(config, loss, data)
    if student.has_own_loss or student.scores_pairs:
        _refuse_what_pairs_cannot(config, loss, student)
    if start.force and start.must_resume:
        raise ConfigError("--force starts anew and --resume must goes on: leave one of them out.", key="resume")
    before = checkpoint.random_state()
    try:
        with ranks.process_group(config.device) as device:
            first = ranks.rank() == 0
            if start.force and first:
                for name in (CHECKPOINTS_FOLDER, MODEL_FOLDER, TENSORBOARD_FOLDER):
                    store.remove_folder(out / name)
                (out / METRICS_FILE).unlink(missing_ok=True)
            if first:
                store.make_folder(out)
            ranks.barrier()
            opened = Data.open(config, loss, data, student, out=out, device=device)
            identity = checkpoint.Identity(
                settings=settings(train=config, loss=loss) | data.identity | dict(start.settings),
                digests={**data.digests, **opened.digests, **start.digests},
            )
            checkpoint.seed_all(config.seed + ranks.rank())
            prepare(student.to(device), config)
            if first and opened.mixture:
                callbacks.on_message(opened.mixture)
            rows = opened.split.num_images, opened.split.num_captions
            objective = _objective(loss, opened.calibrated, rows, callbacks if first else SILENT).to(device)
            if config.compile:
                objective.compile()
            session = Session(
                config,
                student=student,
                loss=objective,
                out=out,
                identity=identity,
                on_device=opened.on_device,
                judged=opened.judged,
                pair_weights=opened.pair_weights,
            )
            if first and (weights := _weights_by_batch(objective, config.batch)):
                callbacks.on_message(weights)
            if first and opened.augmented:
                callbacks.on_message(opened.augmented)
            for tower in tower_rates(student, config) if first else ():
                callbacks.on_message(tower.sentence(config.lr))
            session.resume(allow_changed=start.allow_changed, must=start.must_resume)
            if ranks.world() > 1 and student.has_own_loss:
                session.notes += ("This student's own loss compares the pairs of each rank only, not of all ranks.",)
            if first:
                store.sweep(out)
            metrics = None
            if first:
                metrics = Metrics(out, done=session.done, on_metrics=callbacks.on_metrics, wandb=config.wandb)
            else:
                callbacks = replace(callbacks, on_event=ignore)
            with metrics or nullcontext(), closing(session):
                if metrics is not None:
                    session.notes += metrics.notes
                    if opened.met and not session.done:
                        metrics.log(0, opened.met)
                _train(session, opened, metrics, validate=validate, callbacks=callbacks)
            best, seen = session.best, sum(ranks.gather_values(session.seen)) % (1 << 64)
            return Trained(
                session.done,
                session.started_at,
                best.step,
                best.values,
                session.last,
                (*session.remarks(), *opened.notes),
                f"{seen:016x}",
            )
    finally:
        checkpoint.set_random_state(before)


def _objective(
    loss: LossConfig, calibrated: Calibrated | None, rows: tuple[int, int], callbacks: Callbacks
) -> CUSALoss:
    """Make the loss, and say what the calibration expects."""
    if calibrated is None:
        return make_loss(loss, rows=rows)
    callbacks.on_message(calibrated.sentence)
    return make_loss(calibrated.solved(loss), calibrated.probability, rows=rows)


def _weights_by_batch(objective: CUSALoss, batch: int) -> str:
    """Return in a sentence what CSA and USA weigh where that depends on the batch's size; empty where it does not."""
    names = {"csa": "CSA", "usa": "USA"}
    weights = {name: weight for name, weight in objective.effective_weights(batch).items() if name in names and weight}
    if objective.reduction != "release" or not weights:
        return ""
    parts = " and ".join(f"{names[name]} weighs {weight:.3g}" for name, weight in weights.items())
    return (
        f"With loss.reduction=release, {parts} times InfoNCE in a batch of {batch:,} pairs, and in proportion in "
        "others: with train.batch change loss.alpha and loss.beta."
    )


def check(config: TrainConfig, loss: LossConfig, data: Training) -> None:
    """Refuse a configuration that cannot train on a split, before a student or any data is loaded.

    Args:
        config: order, schedule.
        loss: weights.
        data: what is trained on; no table of it is read.

    Raises:
        ConfigError: if no batch can be filled, the warm-up is as long as the run, or no loss has a weight.
    """
    if not (loss.infonce_weight or loss.alpha or loss.beta):
        raise ConfigError("All weights of the loss are 0. Set loss.infonce_weight, loss.alpha or loss.beta.")
    if isinstance(data, TrainingMixture):
        plan_draws(config, data)
        choose_tables(loss, data)
    order = Order(data.num_captions, config.batch, config.seed, config.drop_last)
    steps = config.steps or config.epochs * order.steps_per_epoch
    if config.warmup_steps >= steps:
        raise ConfigError(
            f"train.warmup_steps is {config.warmup_steps}, and the run has {steps} steps ({data.num_captions} pairs, "
            f"train.batch={config.batch}). Set train.warmup_steps to at most {steps - 1}, or more steps or epochs.",
            key="train.warmup_steps",
        )


def _refuse_what_pairs_cannot(config: TrainConfig, loss: LossConfig, student: Student) -> None:
    """Refuse options of InfoNCE over embeddings for a student that scores pairs or has a loss of its own."""
    kind = type(student).__name__
    for key, value, neutral in (
        ("contrast", loss.contrast, "infonce"),
        ("label_smoothing", loss.label_smoothing, 0.0),
        ("pair_weights", loss.pair_weights, "none"),
        ("soft_labels", loss.soft_labels, "teacher"),
    ):
        if value != neutral:
            raise ConfigError(
                f"loss.{key} is {value!r}, which is an option of a contrast over embeddings; {kind} scores pairs or "
                f"has a loss of its own. Set loss.{key}={neutral}.",
                key=f"loss.{key}",
            )
    if loss.false_negatives != "soft":
        raise ConfigError(
            f"loss.false_negatives is {loss.false_negatives!r}, which is an option of InfoNCE over embeddings; "
            f"{kind} scores pairs or has a loss of its own. Set soft, or drop judged images with `cusa shard "
            "subset`.",
            key="loss.false_negatives",
        )
    if loss.impl not in ("auto", "plain"):
        raise ConfigError(
            f"loss.impl is {loss.impl!r}, which streams cosines of embeddings; {kind} scores pairs or has a loss of "
            "its own. Set loss.impl=auto.",
            key="loss.impl",
        )
    if ranks.started_together() and student.scores_pairs and not student.has_own_loss and loss.negatives != "local":
        raise ConfigError(
            f"loss.negatives is {loss.negatives!r}, which gathers the embeddings of all ranks; {kind} scores the pairs "
            "of each rank. Set loss.negatives=local.",
            key="loss.negatives",
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
    metrics: Metrics | None,
    *,
    validate: Validate | None,
    callbacks: Callbacks,
) -> None:
    """Do the remaining steps."""
    config, order = session.config, data.order
    steps = config.steps or config.epochs * order.steps_per_epoch
    validate_every = config.validate_every or order.steps_per_epoch
    checkpoint_every = config.checkpoint_every or validate_every
    callbacks.on_event("train", session.done, steps)
    threads = config.workers or available_threads(session.device)
    first_part = session.done * config.accumulate
    read = batches(data.stream, first_part, steps * config.accumulate, threads=threads)
    wish = False
    with closing(on_device(read, session.device, images=not config.chunk)) as flow:
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
                session.saw(part)
            done, last = session.done + 1, session.done + 1 == steps
            logs = done % config.log_every == 0 or last or done == 1
            terms = step.take(session, parts, rate=rate, norm=logs)
            session.done = done
            wish = wish or (not last and callbacks.should_stop())
            validates = validate is not None and (done % validate_every == 0 or last)
            saves = done % checkpoint_every == 0 or last
            stopping = False
            # Of several ranks none knows alone whether another one is asked to stop.
            if logs or validates or saves or (wish and ranks.world() == 1):
                stopping = session.look(data.split, wish=wish) and not last
            if logs:
                session.last = step.describe(session, parts[-1], terms, rate=rate) | pace.read(session.device)
                if metrics is not None:
                    session.require_folder()
                    metrics.log(done, session.last)
                pace.start()
            if validate is not None and validates:
                with session.validated() as student:
                    values = measure(student, validate)
                    session.require_folder()
                    session.best.consider(student, done, values)
                if metrics is not None:
                    metrics.log(done, {f"val.{name}": value for name, value in values.items()})
                pace.start()
            if saves or stopping:
                session.require_folder()
                if metrics is not None:
                    metrics.save()  # first: resumed, rows after the checkpoint's step are dropped
                session.save()
            callbacks.on_event("train", done, steps)
            if stopping:
                session.saved()
                raise StoppedError(
                    f"Training was stopped after step {done} of {steps}; everything is saved. "
                    "Run the same command again to go on.",
                    step=done,
                )
    session.saved()
    best = session.best
    if validate is None and (best.step != steps or not best.folder.is_dir()):
        session.require_folder()
        with session.validated() as student:
            best.keep(student, steps)
    if validate is not None and not best.step:
        raise DataError(
            f"No validation gave a finite {config.monitor}, so no model was saved. Look at the rows val.* of "
            f"{METRICS_FILE}, and set train.monitor to a metric that is finite, or train anew with a lower train.lr.",
            key="train.monitor",
        )
    ranks.barrier()
