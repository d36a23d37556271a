"""One optimiser step: precision, clipping and what the gradients are before and after."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cusa.manifests.samples import Split
from cusa.train import step
from cusa.train.data.gather import TeacherRows
from cusa.train.data.order import Order
from cusa.train.data.pairs import Pairs
from cusa.train.data.stream import PairStream
from cusa.train.session import Session
from tests.train.test_session import _session


def _take(world: Path, out: Path, **options: Any) -> tuple[Session, dict[str, torch.Tensor]]:
    split, session = Split(world, "train"), _session(world, out, **options)
    teachers = {
        modality: TeacherRows(split, name, fallback=out) for modality, name in (("image", "colours"), ("text", "words"))
    }
    stream = PairStream(Pairs(split), Order(split.num_captions, 8, 0), session.student, teachers=teachers)
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
    free, terms = _take(world, tmp_path, precision=precision)
    before = _norm(free)
    assert float(terms["grad_norm"]) == pytest.approx(before, rel=1e-5)
    clipped, terms = _take(world, tmp_path, precision=precision, clip_norm=before / 3)
    assert float(terms["grad_norm"]) == pytest.approx(before, rel=1e-5)
    assert _norm(clipped) == pytest.approx(before / 3, rel=1e-4)
    above, _ = _take(world, tmp_path, precision=precision, clip_norm=before * 3)
    assert _norm(above) == pytest.approx(before, rel=1e-5)


def test_take__half_precision_is_of_the_towers_alone(world: Path, tmp_path: Path) -> None:
    exact, expected = _take(world, tmp_path)
    for precision in ("bf16", "fp16"):
        session, terms = _take(world, tmp_path, precision=precision)
        assert terms["loss"] != expected["loss"], precision
        assert float(terms["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
        assert terms["loss"].dtype == torch.float32
        assert {parameter.dtype for parameter in session.student.parameters()} == {torch.float32}
        assert _norm(session) == pytest.approx(_norm(exact), rel=0.1), "gradients are scaled back"
