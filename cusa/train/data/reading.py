"""What a run reads, put together: order, stream, teacher rows, and what they depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from cusa.train.data.blocks import Blocks
from cusa.train.data.gather import TeacherRows
from cusa.train.data.judged import JudgedPairs, read_judged
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream

_SIMILARITY = 0.8  # of near images, where the recipe asks for batches that know them and does not say


@dataclass(frozen=True)
class Data:
    """The reading side of a run."""

    order: Order
    stream: PairStream
    on_device: Mapping[str, Tensor]
    """Teacher tables that are on the device whole, by the loss's names for their rows."""
    digests: Mapping[str, str]
    """What the run depends on beside the split: name -> digest."""
    judged: JudgedPairs | None
    """What people said of pairs of the split, on the device; None where the loss does not ask."""
    met: Mapping[str, float]
    """How often near images meet, in this order and at random; empty where nobody asks."""
    notes: tuple[str, ...]

    @staticmethod
    def open(
        config: TrainConfig,
        loss: LossConfig,
        split: Split,
        student: Student,
        teachers: Mapping[str, str],
        out: Path,
        device: torch.device,
    ) -> "Data":
        """Open everything; what is built once is built by rank 0 while the others wait.

        Args:
            config: order, reading.
            loss: whether teachers are read.
            split: pairs to train on.
            student: who reads them.
            teachers: modality -> name; empty = the split's only one.
            out: the run's folder.
            device: where teacher tables may stay.

        Raises:
            ConfigError: if no batch can be filled, or not every rank has pairs in every part, or the loss asks for
                verdicts and nobody has judged.
            DataError, StaleError: if a table is missing, broken, or of another state of the split.
        """
        chosen: dict[str, str] = {}
        if loss.alpha or loss.beta or loss.false_negatives == "mask":
            chosen = {kind: tables.choose_teacher(split, kind, name) for kind, name in teachers.items()}
        if ranks.rank():
            ranks.barrier()
        pairs = Pairs(split, fallback=out / "cache")
        rows = {kind: TeacherRows(split, teacher, fallback=out / "cache") for kind, teacher in chosen.items()}
        if not ranks.rank():
            ranks.barrier()
        notes: list[str] = []
        digests = {f"the {kind} teacher": teacher.digest for kind, teacher in rows.items()}
        judged = None
        if loss.false_negatives == "positive":
            judged, digests["the verdicts"] = read_judged(split, device)
            notes += judged.notes
        order, met = _order(config, split, pairs, chosen or dict(teachers), digests)
        if order.fewest < ranks.world() * config.accumulate:
            raise ConfigError(
                f"An epoch's smallest step has {order.fewest} pairs, too few for {ranks.world()} ranks and train."
                f"accumulate={config.accumulate}. Set train.drop_last=true, or fewer parts.",
                key="train.batch",
            )
        on_device, budget = {}, config.teacher_mib << 20
        for kind in rows if config.teacher_mib else ():
            table = rows[kind].on(device, budget=budget)
            if table is None:
                notes.append(
                    f"The {kind} teacher's rows take {rows[kind].nbytes >> 20} MiB, more than what train.teacher_mib="
                    f"{config.teacher_mib} leaves for them: they are read from a file."
                )
            else:
                budget -= rows[kind].nbytes
                on_device[f"teacher_{kind}"] = table
        stream = PairStream(
            split,
            order,
            student,
            teacher_image=None if "teacher_image" in on_device else rows.get("image"),
            teacher_text=None if "teacher_text" in on_device else rows.get("text"),
            cache_bytes=config.cache_mib << 20,
            rank=ranks.rank(),
            world=ranks.world(),
            parts=config.accumulate,
            draft=_draft(config, student),
            pairs=pairs,
        )
        return Data(order, stream, on_device, digests, judged, met, tuple(notes))


def _order(
    config: TrainConfig, split: Split, pairs: Pairs, teachers: Mapping[str, str], digests: dict[str, str]
) -> tuple[Order, dict[str, float]]:
    """Make the order, and measure how often near images meet where somebody asks; note what it depends on."""
    plain = Order(split.num_captions, config.batch, config.seed, config.drop_last)
    asked = config.neighbour_similarity or (_SIMILARITY if config.batches != "random" else 0)
    blocks = None
    if config.shuffle_window:
        blocks = Blocks(split.shards["captions"].to_pylist(), window=config.shuffle_window)
    if not asked:
        return Order(plain.pairs, plain.batch, plain.seed, plain.drop_last, blocks), {}
    # Here, as scipy is slow to import and seldom asked for.
    from cusa.train.data import neighbourhood

    named = {kind: tables.choose_teacher(split, kind, name) for kind, name in teachers.items()}
    owner_M = pairs.owner.whole()
    near = neighbourhood.near_images(split, named, owner_M, similarity=asked)
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
            "train.decode is 'scaled', but this student does not say how large an image it needs. Set train.decode="
            "exact.",
            key="train.decode",
        )
    return preprocess.resize or preprocess.size
