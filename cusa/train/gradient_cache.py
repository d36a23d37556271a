"""Gradients of a batch whose activations do not fit: encode without a graph, then again in chunks with one.

A contrastive loss needs all embeddings at once, but they are small; what fills memory are the encoders' activations.
First all chunks are encoded without keeping any; the loss gives the gradient of every embedding; then each chunk is
encoded again, with its graph, and walked back from those gradients.

Legend: B pairs in the batch, C of them in a chunk.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from cusa.errors import ConfigError

Encode = Callable[[slice], Mapping[str, Tensor]]
"""Embeds some pairs of the batch: name -> (C, any)."""
Objective = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Turns the embeddings of the whole batch into loss terms, the total as `loss`."""


def cached_backward(
    encode: Encode,
    objective: Objective,
    *,
    size: int,
    chunk: int,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """Add the gradients of one batch to the parameters, in the memory of one chunk; return the loss terms.

    Exact: the gradients are those of the same chunks encoded with all their graphs at once. Dropout draws the same
    numbers both times: the random state (of the CPU and of every CUDA device that has been used) is set back before a
    chunk is encoded again, and ends where the first pass left it. What `encode` writes elsewhere it writes twice:
    running statistics of a BatchNorm, which moreover sees a chunk where it would see the batch.

    Example:
        >>> terms = cached_backward(
        ...     lambda rows: model(images[rows], texts[rows]),
        ...     lambda embeddings: loss(**embeddings, teacher_image=teacher_image, teacher_text=teacher_text),
        ...     size=len(images), chunk=64)
        >>> optimizer.step()

    Args:
        encode: called twice a chunk, in order; enters autocast itself if it wants to.
        objective: called once. Parameters of its own get their gradients too, and ranks may share it: `CUSALoss` with
            `negatives="global"` gathers within it.
        size: B, at least 1.
        chunk: C, at least 1; the last chunk may be smaller.
        scale: applied to the loss before its backward: a gradient scaler's `scale`, or a division for accumulation.
        no_sync: entered around every chunk's backward but the last: DistributedDataParallel's `no_sync`.

    Returns:
        What `objective` returned, detached.

    Raises:
        ConfigError: for sizes below 1.

    Source: Gao et al. 2021, arXiv:2101.06983, section 3.
    """
    if size < 1 or chunk < 1:
        raise ConfigError(f"size is {size} and chunk {chunk}; both must be at least 1.", size=size, chunk=chunk)
    chunks = [slice(start, min(start + chunk, size)) for start in range(0, size, chunk)]
    states, parts = [], []
    with torch.no_grad():
        for rows in chunks:
            states.append(_random_state())
            parts.append(dict(encode(rows)))
    embeddings = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    del parts
    terms = objective(embeddings)
    scale(terms["loss"]).backward()
    gradients = {name: rows.grad for name, rows in embeddings.items() if rows.grad is not None}
    for rows, state in zip(chunks, states, strict=True):
        with nullcontext() if rows is chunks[-1] else no_sync(), _from(state):
            again = encode(rows)
            pairs = [(again[name], grad[rows]) for name, grad in gradients.items() if again[name].requires_grad]
            if pairs:
                torch.autograd.backward([one for one, _ in pairs], [grad for _, grad in pairs])
    return {name: term.detach() for name, term in terms.items()}


State = tuple[Tensor, list[Tensor]]


def _random_state() -> State:
    """Return the states of the CPU's and, once CUDA is in use, of its devices' generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return torch.get_rng_state(), devices


@contextmanager
def _from(state: State) -> Iterator[None]:
    """Set the random state back for a while."""
    after = _random_state()
    try:
        _set_random_state(state)
        yield
    finally:
        _set_random_state(after)


def _set_random_state(state: State) -> None:
    cpu, devices = state
    torch.set_rng_state(cpu)
    if devices:
        torch.cuda.set_rng_state_all(devices)
