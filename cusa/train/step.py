"""One optimiser step: embed the pairs, compute the loss, differentiate it, update the weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from cusa.models.pixels import keeping
from cusa.train import ranks
from cusa.train.data.batch import Batch
from cusa.train.data.order import shares
from cusa.train.gradient_cache import cached_backward
from cusa.train.session import Session
from cusa.train.terms import terms as loss_terms

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def take(session: Session, parts: Sequence[Batch], *, rate: float, norm: bool = True) -> dict[str, Tensor]:
    """Take one optimiser step: on all ranks together, on the step's parts one after another.

    The gradient is the mean over the step's pairs, however they are divided: each part is weighted by its number of
    pairs, and the gradients of the ranks' shares are averaged. No number is read on the host: a loss that is not finite
    is found when `session.look` reads those of several steps.

    Args:
        session: the run; its weights are changed.
        parts: this rank's share of each part of the step; each part has negatives of its own only.
        rate: learning rate.
        norm: whether the norm of the gradients is wanted; computed in any case where they are clipped.

    Returns:
        The terms of the loss and, where wanted, the norm of the gradients before clipping; 0-d, detached, on the
        device.
    """
    for group in session.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    session.optimizer.zero_grad(set_to_none=True)
    pairs = sum(part.pairs for part in parts)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts, start=1):
        share = part.pairs / pairs
        with session.gradients.held() if number < len(parts) else nullcontext():
            terms = _differentiate(session, part, share)
        session.unread.add(part, terms)
        if len(parts) == 1:
            sums = {name: term.detach() for name, term in terms.items()}
        else:
            sums = {name: sums.get(name, 0) + term.detach() * share for name, term in terms.items()}
    learned = [p for group in session.optimizer.param_groups for p in group["params"]]
    session.gradients.finish()
    session.scaler.unscale_(session.optimizer)
    clip_norm = session.config.clip_norm
    if norm or clip_norm:
        sums["grad_norm"] = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(learned, clip_norm, sums["grad_norm"])
    session.scaler.step(session.optimizer)  # left out where fp16 gradients overflowed; the scale then falls
    session.scaler.update()
    if session.average is not None:
        session.average.update(session.done)
    return sums


def describe(session: Session, part: Batch, terms: dict[str, Tensor], *, rate: float) -> dict[str, float]:
    """Return a step's metrics, a function of state and batch alone. The soft labels described are those of one part."""
    rows, ids = _teachers(session, part), _ids(session, part)
    described = session.loss.diagnostics(
        teacher_image=rows.get("teacher_image"),
        teacher_text=rows.get("teacher_text"),
        image_ids=ids["image_ids"],
        text_ids=ids.get("text_ids"),
        positive_pairs=ids.get("positive_pairs"),
    )
    numbers = {**terms, **described}
    # One wait for the device, not one a number.
    read = torch.stack([number.to(session.device, torch.float64) for number in numbers.values()]).tolist()
    values = dict(zip(numbers, read, strict=True))
    if session.scaler.is_enabled():
        values["loss_scale"] = session.scaler.get_scale()
    weights = session.loss.effective_weights(part.pairs)
    values |= {f"effective_weight.{name}": weight for name, weight in weights.items() if weight}
    values["lr"] = rate
    values["undecodable"] = float(len(session.bad))
    return values


def _differentiate(session: Session, part: Batch, share: float) -> dict[str, Tensor]:
    """Add the gradients of a part of the step, times its share of the pairs; return the loss's terms."""
    device, config = session.device, session.config
    patches = None if part.patches is None else session.student.patches()
    typed = partial(torch.autocast, device.type, dtype=_TYPES.get(config.precision), enabled=config.precision in _TYPES)

    def encode(rows: slice) -> dict[str, Tensor]:
        pixels = session.student.pixels(part.images[rows].to(device, non_blocking=True))
        tokens = {name: values[rows] for name, values in part.tokens.items()}
        kept = None if part.patches is None else part.patches[rows].to(device)
        with typed(), keeping(patches, kept):
            embeddings: dict[str, Tensor] = session.student(pixels, tokens)
        return embeddings

    def objective(out: dict[str, Tensor]) -> dict[str, Tensor]:
        with typed():
            return loss_terms(
                session.student,
                session.loss,
                out,
                rows_of_ranks=shares(part.pairs, ranks.world()),
                **_teachers(session, part),
                **_ids(session, part),
            )

    def scale(loss: Tensor) -> Tensor:
        return session.scaler.scale(loss * share)

    if config.chunk:
        return cached_backward(
            encode,
            objective,
            size=len(part.keys),
            chunk=config.chunk,
            scale=scale,
            no_sync=session.gradients.held,
        )
    terms = objective(encode(slice(None)))
    scale(terms["loss"]).backward()
    return terms


def _ids(session: Session, part: Batch) -> dict[str, Tensor]:
    """Return the image ids of a part and, where they are used, its captions' ids, pairs' weights or judged pairs."""
    if session.pair_weights is not None:
        return {"image_ids": part.image_ids, "pair_weights": session.pair_weights[part.rows]}
    if session.loss.thresholds is not None:
        return {"image_ids": part.image_ids, "text_ids": part.rows}
    if session.judged is None:
        return {"image_ids": part.image_ids}
    return session.judged.loss_inputs(part.image_ids, part.rows)


def _teachers(session: Session, part: Batch) -> dict[str, Tensor]:
    """Return the part's teacher rows, by the loss's names for them."""
    read = {"teacher_image": part.teacher_image, "teacher_text": part.teacher_text}
    teachers = {name: rows for name, rows in read.items() if rows is not None}
    for name, table in session.on_device.items():
        teachers[name] = table[part.image_ids if name == "teacher_image" else part.rows].float()
    return teachers
