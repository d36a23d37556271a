"""One optimiser step: precision, clipping and what the gradients are before and after."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.errors import StoppedError
from cusa.manifests.samples import Split
from cusa.models import student as students
from cusa.train import schedule, step
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream, Tables
from cusa.train.optimizers.groups import parameter_groups
from cusa.train.session import Session
from cusa.train.terms import make_loss
from tests.train.conftest import LOSS, STUDENT, TRAIN, Train
from tests.train.test_session import _session
from tests.train.test_survival import metrics, same, state


def take(world: Path, out: Path, **options: Any) -> tuple[Session, dict[str, torch.Tensor]]:
    split, session = Split(world, "train"), _session(world, out, **options)
    teachers = {
        modality: TeacherRows(split, name, fallback=out) for modality, name in (("image", "colours"), ("text", "words"))
    }
    stream = PairStream(
        Pairs(split), Order(split.num_captions, 8, 0), session.student, tables=Tables(teachers=teachers)
    )
    if options.get("precision") == "fp16":
        session.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)  # the default one overflows at first, by design
    torch.manual_seed(0)
    return session, step.take(session, [stream[0]], rate=1e-3)


def _norm(session: Session) -> float:
    grads = [
        p.grad.flatten() for group in session.optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    return float(torch.linalg.vector_norm(torch.cat(grads)))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_take__clips_the_gradients_and_says_what_their_norm_was(world: Path, tmp_path: Path, precision: str) -> None:
    free, terms = take(world, tmp_path, precision=precision)
    before = _norm(free)
    assert float(terms["grad_norm"]) == pytest.approx(before, rel=1e-5)
    clipped, terms = take(world, tmp_path, precision=precision, clip_norm=before / 3)
    assert float(terms["grad_norm"]) == pytest.approx(before, rel=1e-5)
    assert _norm(clipped) == pytest.approx(before / 3, rel=1e-4)
    above, _ = take(world, tmp_path, precision=precision, clip_norm=before * 3)
    assert _norm(above) == pytest.approx(before, rel=1e-5)


def test_take__half_precision_is_of_the_towers_alone(world: Path, tmp_path: Path) -> None:
    exact, expected = take(world, tmp_path)
    for precision in ("bf16", "fp16"):
        session, terms = take(world, tmp_path, precision=precision)
        assert terms["loss"] != expected["loss"], precision
        assert float(terms["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
        assert terms["loss"].dtype == torch.float32
        assert {parameter.dtype for parameter in session.student.parameters()} == {torch.float32}
        assert _norm(session) == pytest.approx(_norm(exact), rel=0.1), "gradients are scaled back"


def _student(world: Path) -> students.Student:
    return students.create(STUDENT, captions=Split(world, "train").texts, uni=True, seed=0)


def test_parts_equal_a_plain_loop(world: Path, train: Train, tmp_path: Path) -> None:
    told = {"accumulate": 3, "batch": 8, "steps": 5}
    train(tmp_path / "run", train=told)
    split, student, loss = Split(world, "train"), _student(world), make_loss(LOSS)
    named = [*student.named_parameters("student"), *loss.named_parameters("loss")]
    optimizer = torch.optim.AdamW(parameter_groups(named, weight_decay=TRAIN.weight_decay), lr=1.0)
    image = TeacherRows(split, "colours", fallback=tmp_path)
    text = TeacherRows(split, "words", fallback=tmp_path)
    order = Order(split.num_captions, 8, 0)
    stream = PairStream(Pairs(split), order, student)
    for number in range(5):
        rows, batch = order.rows(number), stream[number]
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = schedule.cosine(
            number, steps=5, lr=TRAIN.lr
        )
        total = torch.zeros(())
        for part in (slice(0, 2), slice(2, 5), slice(5, 8)):
            owners = split.caption_owner[rows[part]]
            terms = loss(
                **student(student.pixels(batch.images[part]), student.tokenize([split.texts[r] for r in rows[part]])),
                teacher_image=torch.from_numpy(image[owners]),
                teacher_text=torch.from_numpy(text[rows[part]]),
                image_ids=torch.from_numpy(owners),
            )
            total = total + terms["loss"] * len(owners) / 8
        total.backward()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for _, p in named if p.grad is not None]))
        optimizer.step()
    got = state(tmp_path / "run", 5)
    expected = student.state_dict()
    for name, value in got["student"].items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    assert got["last"]["loss"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert got["last"]["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_chunks_equal_the_whole(train: Train, tmp_path: Path) -> None:
    done = {}
    for name, told in (("whole", {}), ("chunks", {"chunk": 3}), ("large", {"chunk": 99})):
        train(tmp_path / name, train={"log_every": 1, "clip_norm": 1.0, "accumulate": 2, **told})
        done[name] = metrics(tmp_path / name)
    for name in ("chunks", "large"):
        assert done[name].keys() == done["whole"].keys()
        for place, value in done["whole"].items():
            if place[1] in ("loss", "infonce", "csa", "usa", "grad_norm"):
                assert done[name][place] == pytest.approx(value, rel=2e-4), (name, place)


def test_fp16_scales_and_goes_on(train: Train, tmp_path: Path) -> None:
    done = train(tmp_path / "whole", train={"precision": "fp16"})
    assert done.last["loss_scale"] >= 1
    asked = iter([False] * 4)
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", train={"precision": "fp16"}, should_stop=lambda: next(asked, True))
    train(tmp_path / "parts", train={"precision": "fp16"})
    assert 0 < state(tmp_path / "whole")["scaler"]["_growth_tracker"] <= 10  # a first scale may overflow
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))
    exact = train(tmp_path / "exact")
    assert done.last["loss"] == pytest.approx(exact.last["loss"], rel=0.05)
