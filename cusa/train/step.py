"""One step: embed, compare, differentiate, move."""

import math

import torch
from torch import Tensor, nn

from cusa.errors import DataError
from cusa.train.batch import Batch
from cusa.train.config import TrainConfig
from cusa.train.session import Session
from cusa.train.terms import terms as loss_terms


def take(session: Session, batch: Batch, config: TrainConfig, *, rate: float) -> dict[str, Tensor]:
    """Take one step.

    Args:
        session: what is moved.
        batch: the step's pairs.
        config: precision and clipping.
        rate: learning rate.

    Returns:
        The terms of the loss, and `grad_norm` where it is known; 0-d and detached.

    Raises:
        DataError: if the loss is no finite number; the batch's keys are named.
    """
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    device = session.device
    pixels = session.student.pixels(batch.images.to(device))
    tokens = {name: values.to(device) for name, values in batch.tokens.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        out = session.student(pixels, tokens)
        terms = loss_terms(
            session.student,
            session.loss,
            out,
            **teachers(batch, device),
            image_ids=batch.image_ids.to(device, non_blocking=True),
        )
    total = terms["loss"]
    if not math.isfinite(float(total.detach())):
        raise _no_number(session, batch, terms)
    session.optimizer.zero_grad(set_to_none=True)
    total.backward()
    found = {name: term.detach() for name, term in terms.items()}
    if config.clip_norm:
        everything = [p for group in session.optimizer.param_groups for p in group["params"]]
        found["grad_norm"] = nn.utils.clip_grad_norm_(everything, config.clip_norm)
    session.optimizer.step()
    return found


def describe(session: Session, batch: Batch, terms: dict[str, Tensor], *, rate: float) -> dict[str, float]:
    """Return a step's numbers: a function of state and batch alone."""
    values = {name: float(term) for name, term in terms.items() if name != "grad_norm"}
    rows = teachers(batch, session.device)
    described = session.loss.diagnostics(teacher_image=rows.get("teacher_image"), teacher_text=rows.get("teacher_text"))
    values |= {name: float(value) for name, value in described.items()}
    weights = session.loss.effective_weights(len(batch.keys))
    values |= {f"effective_weight.{name}": weight for name, weight in weights.items() if weight}
    values["lr"] = rate
    if "grad_norm" in terms:
        values["grad_norm"] = float(terms["grad_norm"])
    values["undecodable"] = float(len(session.bad))
    return values


def teachers(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return the batch's teacher rows on a device, by the loss's names for them."""
    both = {"teacher_image": batch.teacher_image, "teacher_text": batch.teacher_text}
    return {name: rows.to(device, non_blocking=True) for name, rows in both.items() if rows is not None}


def _no_number(session: Session, batch: Batch, terms: dict[str, Tensor]) -> DataError:
    first = ", ".join(batch.keys[:8])
    known = session.last_checkpoint
    kept = f" The last good checkpoint is {known}." if known else ""
    parts = ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())
    return DataError(
        f"The loss is no finite number at step {session.done + 1} ({parts}). The batch begins with {first}."
        f"{kept} Lower train.lr, set train.clip_norm=1, or look at those images and captions.",
        step=session.done + 1,
        keys=batch.keys,
    )
