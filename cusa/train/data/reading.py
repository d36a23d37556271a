"""The data of a run: order, stream of batches, teacher rows, and the digests of what they are read from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.neighbours import neighbour_path
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models.students.base import Student
from cusa.train import ranks
from cusa.train.config import LossConfig, TrainConfig
from cusa.train.data.augment.opened import open_augmentation
from cusa.train.data.blocks import Blocks
from cusa.train.data.calibrated import Calibrated, open_calibrated
from cusa.train.data.caption_odds import CaptionDraw
from cusa.train.data.judged import JudgedPairs
from cusa.train.data.mixture.joined import AnyPairs, JoinedSplit
from cusa.train.data.mixture.judged import read_opinions
from cusa.train.data.mixture.opened import choose_tables, open_rows
from cusa.train.data.mixture.plan import describe, plan_draws
from cusa.train.data.order import Order
from cusa.train.data.stream import PairStream, Pictures, Share, Tables
from cusa.train.data.training import Training, TrainingMixture, TrainingSplit

_SIMILARITY = 0.8  # of near images, where `train.batches` is set and `train.neighbour_similarity` is not


@dataclass(frozen=True)
class Data:
    """The opened data of a run."""

    order: Order
    stream: PairStream
    split: Split | JoinedSplit
    """Whose images count, and where they lie."""
    on_device: Mapping[str, Tensor]
    """Teacher tables that are on the device whole, by the loss's names for their rows."""
    digests: Mapping[str, str]
    """Digests of what is read beside the split, by name."""
    judged: JudgedPairs | None
    """Human judgements of the split's pairs, on the device; None where the loss does not use them."""
    pair_weights: Tensor | None
    """(captions,) how much each pair counts, on the device; None where all count alike."""
    calibrated: Calibrated | None
    """Probabilities of a batch's foreign pairs; None where the loss does not use them."""
    met: Mapping[str, float]
    """How often near images meet in a batch, in this order and at random, and what the calibration expects; empty where
    nothing is measured."""
    notes: tuple[str, ...]
    augmented: str = ""
    """How pictures change, in a sentence; empty where they do not."""
    mixture: str = ""
    """What several data sets have of an epoch, in a sentence; empty for one."""

    @staticmethod
    def open(
        config: TrainConfig,
        loss: LossConfig,
        training: Training,
        student: Student,
        *,
        out: Path,
        device: torch.device,
    ) -> "Data":
        """Open all data; rank 0 builds the caches while the other ranks wait.

        Args:
            config: order, reading.
            loss: whether teachers are read.
            training: the split and its teachers, or several of them.
            student: prepares images and captions.
            out: the run's folder.
            device: where teacher tables may stay.

        Raises:
            ConfigError: if no batch can be filled, or not every rank has pairs in every part, or the loss uses
                judgements and there are none.
            DataError, StaleError: if a table is missing, broken, or of another state of the split.
        """
        chosen = choose_tables(loss, training)
        draws = plan_draws(config, training) if isinstance(training, TrainingMixture) else None
        if ranks.rank():
            ranks.barrier()
        opened = open_rows(training, chosen, (1.0,) if draws is None else draws.shares, out=out)
        if not ranks.rank():
            ranks.barrier()
        pairs, rows, features = opened.pairs, opened.teachers, opened.features
        notes, digests = opened.notes, dict(opened.digests)
        opinions = read_opinions(loss, training, pairs, device)
        notes += opinions.notes
        digests |= opinions.digests
        calibrated = None
        if loss.needs_calibration:
            shared = ranks.world() if loss.negatives == "local" else 1
            calibrated = open_calibrated(
                loss,
                training.calibration,
                split=training.sets[0].split,
                rows=rows,
                owner=pairs.owner.whole(),
                batch=max(2, config.batch // config.accumulate // shared),
            )
            digests["the calibration"] = calibrated.digest
        if draws is None:
            order, met = _order(config, training.sets[0], pairs, chosen[0], digests)
        else:
            order, met = Order(draws.pairs, config.batch, config.seed, config.drop_last, draws), {}
        splits = [one.split for one in training.sets]
        if config.caption_odds:
            captions = CaptionDraw(config.caption_odds, splits, None if draws is None else draws.shares)
            order = replace(order, captions=captions)
            notes.append(captions.note)
        met |= calibrated.metrics() if calibrated is not None else {}
        if order.fewest < ranks.world() * config.accumulate:
            raise ConfigError(
                f"An epoch's smallest step has {order.fewest} pairs, too few for {ranks.world()} ranks and train."
                f"accumulate={config.accumulate}. Set train.drop_last=true, or fewer parts.",
                key="train.batch",
            )
        on_device, budget = {}, config.teacher_mib << 20
        for modality in rows if config.teacher_mib else ():
            table = rows[modality].on(device, budget=budget)
            if table is None:
                notes.append(
                    f"The {modality} teacher's rows take {rows[modality].nbytes >> 20} MiB, more than what "
                    f"train.teacher_mib={config.teacher_mib} leaves for them: they are read from a file."
                )
            else:
                budget -= rows[modality].nbytes
                on_device[f"teacher_{modality}"] = table
        if "image" in features:  # no image is decoded, so the memory for images is free
            left = config.cache_mib << 20
            for kept in opened.tables:
                left -= kept.keep(budget=left)
        augmentation = open_augmentation(
            config.augment,
            student,
            splits,
            pairs.owner,
            seed=config.seed,
            rows_of=training.sets[0].features.get("image", ""),
        )
        stream = PairStream(
            pairs,
            order,
            student,
            tables=Tables(
                teachers={name: table for name, table in rows.items() if f"teacher_{name}" not in on_device},
                features=features,
            ),
            share=Share(ranks.rank(), ranks.world(), config.accumulate),
            pictures=Pictures(config.cache_mib << 20, config.check_one_in, _draft(config, student), augmentation),
        )
        return Data(
            order=order,
            stream=stream,
            split=pairs.split,
            on_device=on_device,
            digests=digests,
            judged=opinions.judged,
            pair_weights=opinions.pair_weights,
            calibrated=calibrated,
            met=met,
            notes=tuple(notes),
            augmented="" if augmentation is None else augmentation.sentence(),
            mixture=describe(draws, training) if draws is not None and isinstance(training, TrainingMixture) else "",
        )


def _order(
    config: TrainConfig, one: TrainingSplit, pairs: AnyPairs, chosen: Mapping[str, str], digests: dict[str, str]
) -> tuple[Order, dict[str, float]]:
    """Return the order and, where configured, how often near images meet in it; add its inputs' digests."""
    split = one.split
    plain = Order(split.num_captions, config.batch, config.seed, config.drop_last)
    similarity = config.neighbour_similarity or (_SIMILARITY if config.batches != "random" else 0)
    blocks = None
    if config.shuffle_window:
        blocks = Blocks(split.shards["captions"].to_pylist(), window=config.shuffle_window)
    if not similarity:
        return Order(plain.pairs, plain.batch, plain.seed, plain.drop_last, blocks), {}
    # Imported here, as scipy is slow to import and seldom needed.
    from cusa.train.data import neighbourhood

    named = chosen or {
        modality: tables.choose_teacher(split, modality, one.teachers.get(modality, ""))
        for modality in ("image", "text")
    }
    owner_M = pairs.owner.whole()
    near = neighbourhood.near_images(split, named, owner_M, similarity=similarity)
    digests["the neighbour tables"] = store.digest(
        [store.sha256_file(neighbour_path(split, teacher)) for teacher in named.values()]
    )
    if config.batches != "random":
        apart = config.batches == "apart"
        most = plain.steps_per_epoch if apart else plain.batch
        blocks = neighbourhood.blocks(near, owner_M, apart=apart, most=most)
    order = Order(plain.pairs, plain.batch, plain.seed, plain.drop_last, blocks)
    met = {
        "near_in_batch": neighbourhood.share_met(order, near, owner_M),
        "near_at_random": neighbourhood.share_at_random(near, owner_M),
    }
    return order, met


def _draft(config: TrainConfig, student: Student) -> int:
    """Return the pixels a side that scaled decoding must keep; 0 = decode exactly."""
    if config.decode == "exact":
        return 0
    preprocess = getattr(student, "preprocess", None)
    if preprocess is None:
        raise ConfigError(
            "train.decode is 'scaled', but this student does not define the size of its images. Set train.decode="
            "exact.",
            key="train.decode",
        )
    whole = int(preprocess.decoded_side)
    # A crop keeps its part of a picture, so that the picture has to be larger for it.
    return round(whole / (config.augment.crop / config.augment.crop_ratio) ** 0.5) if config.augment.crop else whole
