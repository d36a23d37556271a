"""Between two rows of metrics a step reads no number on the host: proven by counting operations, without a card."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.manifests.samples import Split
from cusa.models import pixels
from cusa.models.students import dual_encoder
from cusa.train import ranks, step
from cusa.train import session as sessions
from cusa.train.config import LossConfig
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream, Tables
from cusa.train.losses import CUSALoss, Setting
from cusa.train.losses.streaming import tiles
from cusa.train.overlap.transfer import on_device, tensors
from cusa.train.session import Session
from cusa.train.terms import make_loss
from tests.train.conftest import LOSS, Train
from tests.train.host_reads import HostReads
from tests.train.test_session import _session


def _opened(world: Path, out: Path, **options: Any) -> tuple[Session, PairStream]:
    split, session = Split(world, "train"), _session(world, out, **options)
    teachers = {
        modality: TeacherRows(split, name, fallback=out) for modality, name in (("image", "colours"), ("text", "words"))
    }
    order = Order(split.num_captions, 8, 0)
    return session, PairStream(Pairs(split), order, session.student, tables=Tables(teachers=teachers))


def test_the_counter_counts_what_makes_a_host_wait() -> None:
    rows = torch.arange(4.0)
    for read in (
        lambda: rows.sum().item(),
        lambda: bool((rows > 0).any()),
        lambda: rows.tolist(),
        lambda: rows[rows > 1],
        lambda: rows.unique(),
        lambda: torch.nonzero(rows),
        lambda: rows.to("meta"),
    ):
        with HostReads() as reads:
            read()
        assert sum(reads.counts.values()) >= 1
    with HostReads() as reads:
        (rows[torch.tensor([0, 2])] * 2).where(rows[:2] > 1, 0.0)
    assert not reads.counts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 1.0, "ema": 0.9},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"chunk": 3},
        {"loss": {"impl": "streamed"}},
        {"loss": {"impl": "streamed", "false_negatives": "mask", "mask_text": 0.9}},
        {"loss": {"impl": "streamed", "contrast": "sigmoid"}},
        {"loss": {"impl": "plain", "label_smoothing": 0.1, "fusion": "dot"}},
        {"loss": {"impl": "streamed", "false_negatives": "hardness", "hardness": 0.3, "hardness_prior": 0.01}},
        {"loss": {"impl": "plain", "false_negatives": "thresholds", "threshold_after": 1}},
        {"loss": {"impl": "streamed", "false_negatives": "thresholds", "threshold_after": 1}},
    ],
)
def test_a_step_reads_nothing_on_the_host(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(tiles, "TILE", 3)
    monkeypatch.setattr(dual_encoder, "normalise", pixels.on_device)  # a CPU looks values up in memory
    loss = LOSS.model_copy(update=options.get("loss", {}))
    session, stream = _opened(world, tmp_path, **{name: value for name, value in options.items() if name != "loss"})
    split = Split(world, "train")
    session.loss = make_loss(loss, rows=(split.num_images, split.num_captions)).train()
    batches = [stream[number] for number in range(3)]
    step.take(session, batches[:1], rate=1e-3)  # the optimiser makes its state
    with HostReads() as reads:
        for batch in batches[1:]:
            session.saw(batch)
            terms = step.take(session, [batch], rate=1e-3)
    assert reads.operations > 100
    assert reads.counts == {}
    with HostReads() as reads:
        session.look(split)
        step.describe(session, batches[-1], terms, rate=1e-3)
    assert sum(reads.counts.values()) >= 2


def test_a_step_runs_on_a_device_without_numbers(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta` any read raises, whatever operation it hides in: transfer, forward, backward, optimiser, average."""
    session, stream = _opened(world, tmp_path, ema=0.9, clip_norm=1.0)
    batch = stream[0]
    student = copy.deepcopy(session.student).to("meta")
    monkeypatch.setattr(sessions, "frozen_digest", lambda student: "")
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # it does not know the device
    on_meta = Session(
        session.config, student=student, loss=make_loss(LOSS).to("meta"), out=tmp_path, identity=session._identity
    )
    (moved,) = on_device((one for one in [batch]), torch.device("meta"))  # type: ignore[arg-type]
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    terms = step.take(on_meta, [moved], rate=1e-3)
    assert terms["loss"].device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        on_meta.look(Split(world, "train"))


@pytest.mark.parametrize("impl", ["plain", "streamed"])
def test_every_mode_of_the_loss_that_needs_no_listed_pairs_reads_nothing(
    impl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 5)
    random = torch.Generator().manual_seed(0)
    widths = {"image": 6, "text": 6, "image_uni": 5, "text_uni": 4, "teacher_image": 8, "teacher_text": 9}
    inputs = {name: torch.randn(13, width, generator=random) for name, width in widths.items()}
    for name in ("image", "text", "image_uni", "text_uni"):
        inputs[name].requires_grad_()
    for options in (
        {},
        {"temperature": Setting(0.003, 0.001, 0.1)},
        {"teacher_temperature": (Setting(0.3, 0.1, 1.0), Setting(0.4, 0.1, 1.0)), "fusion": "add"},
        {"false_negatives": "mask", "mask_image": 0.5, "mask_text": 0.5},
        {"contrast": "sigmoid"},
        {"label_smoothing": 0.2, "reduction": "release", "divergence": "cross_entropy_release"},
    ):
        loss = CUSALoss(impl=impl, **options)  # type: ignore[arg-type]
        with HostReads() as reads:
            loss(**inputs, image_ids=torch.arange(13) // 2)["loss"].backward()
        assert reads.counts == {}, options


def test_ranks_exchange_no_numbers_for_the_host_between_rows_of_metrics(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    highest, gather_values = ranks.highest, ranks.gather_values
    monkeypatch.setattr(ranks, "highest", lambda *given: asked.append("highest") or highest(*given))
    monkeypatch.setattr(ranks, "gather_values", lambda value: asked.append("gather_values") or gather_values(value))
    at: dict[int, int] = {}
    train(
        tmp_path / "run",
        train={"log_every": 4, "checkpoint_every": 10},
        loss=LossConfig(alpha=0.5, beta=0.5),
        on_event=lambda what, done, steps: at.update({done: len(asked)}),
    )
    spoken = {done for done in range(1, 11) if at[done] > at[done - 1]}
    assert spoken == {1, 4, 8, 10}
