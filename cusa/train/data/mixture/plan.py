"""How several data sets share the steps of a training: draws an epoch, shares, passes."""

from cusa.errors import ConfigError
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.data.blocks import Blocks
from cusa.train.data.mixture.draws import Draws, draws_of_epoch
from cusa.train.data.training import TrainingMixture


def plan_draws(config: TrainConfig, mixture: TrainingMixture) -> Draws:
    """Return the draws of several data sets.

    An epoch is as many draws as the sets have pairs together (with `train.drop_last` as many whole batches as that
    fills); a set's share of them is its weight over the sum of weights.

    Raises:
        ConfigError: if the batch is larger than all sets together, not every set or none has a weight, a set is never
            drawn, or the sets are ordered by what only one split has.
    """
    _refuse_orders_of_one(config, mixture)
    sizes = [one.split.num_captions for one in mixture.sets]
    for name, size in zip(mixture.names, sizes, strict=True):
        if not size:
            raise ConfigError(f"data.train: {name} has no pairs. Leave it out.", key="data.train")
    total = sum(sizes) // config.batch * config.batch if config.drop_last else sum(sizes)
    if not total:
        raise ConfigError(
            f"train.batch is {config.batch}, but the data sets have only {sum(sizes)} pairs together, so with train."
            f"drop_last not one batch is full. Set train.batch to at most {sum(sizes)}, or train.drop_last=false.",
            key="train.batch",
        )
    run = config.batch if mixture.mix == "batches" else 1
    draws = tuple(turns * run for turns in draws_of_epoch(sizes, mixture.weights, total // run))
    windows: tuple[Blocks | None, ...] = ()
    if config.shuffle_window:
        windows = tuple(
            Blocks(one.split.shards["captions"].to_pylist(), window=config.shuffle_window) for one in mixture.sets
        )
    return Draws(tuple(sizes), draws, run, windows)


def describe(draws: Draws, mixture: TrainingMixture) -> str:
    """Return a sentence for a person: what an epoch is, and what each set has of it."""
    total = sum(draws.epoch)
    parts = [
        f"{name} {drawn:,} ({drawn / total:.1%}; {drawn / size:.2g} passes over its {size:,} pairs)"
        for name, size, drawn in zip(mixture.names, draws.sizes, draws.epoch, strict=True)
    ]
    form = "each batch of one set" if mixture.mix == "batches" else "each batch of all sets"
    return f"Mixture, {form}; an epoch is {total:,} draws: {'; '.join(parts)}."


def refuse_calibration(loss: LossConfig, mixture: TrainingMixture) -> None:
    """Refuse a calibration of a batch's pairs where every batch is of another set.

    Raises:
        ConfigError: because one calibration, its means and temperatures are of one kind of batch.
    """
    if mixture.mix == "batches" and loss.needs_calibration:
        raise ConfigError(
            "data.mix is 'batches', and the loss needs a calibration of a batch's pairs (loss.soft_labels, "
            "loss.false_negatives or loss.teacher_temperature), which knows one kind of batch. Set data.mix=pairs.",
            key="data.mix",
        )


def _refuse_orders_of_one(config: TrainConfig, mixture: TrainingMixture) -> None:
    if config.batches != "random" or config.neighbour_similarity:
        key = "batches" if config.batches != "random" else "neighbour_similarity"
        raise ConfigError(
            f"train.{key} is {getattr(config, key)!r}, which asks the neighbour tables of one data set, and data.train "
            f"names {len(mixture.sets)}. Set train.batches=random and train.neighbour_similarity=0.",
            key=f"train.{key}",
        )
    if mixture.mix == "batches" and not config.drop_last:
        raise ConfigError(
            "data.mix is 'batches', where every batch is full and of one set, and train.drop_last is false. Set "
            "train.drop_last=true, or data.mix=pairs.",
            key="train.drop_last",
        )
