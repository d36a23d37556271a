"""The learning rate as a pure function of the step."""

import math

from cusa.errors import ConfigError


def cosine(
    step: int, *, steps: int, lr: float, min_lr: float = 0.0, warmup_steps: int = 0, steps_per_epoch: int | None = None
) -> float:
    """Return the learning rate of one step: a linear warm-up, then half a cosine from `lr` towards `min_lr`.

    `min_lr + (lr - min_lr) / 2 * (1 + cos(pi * t))`, t running from 0 at the first step after the warm-up to 1 just
    after the last step: the last step itself stands a little above `min_lr`.

    Args:
        step: counted from 0; steps beyond the last get `min_lr`.
        steps: optimiser steps of the whole run, at least 1.
        lr: highest rate.
        min_lr: lowest rate, at most `lr`.
        warmup_steps: steps that rise linearly; the first has `lr / (warmup_steps + 1)`.
        steps_per_epoch: where given, the rate of an epoch's first step holds for all its steps.

    Returns:
        A rate between 0 and `lr`.

    Raises:
        ConfigError: for numbers out of these ranges.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts. The authors' release has no
    warm-up and moves once an epoch: `steps_per_epoch` with `warmup_steps=0`.
    """
    if steps < 1 or step < 0:
        raise ConfigError(f"step {step} of {steps}: a run has at least 1 step, and steps count from 0.", steps=steps)
    if not 0 <= min_lr <= lr < math.inf:
        raise ConfigError(f"lr is {lr} and min_lr {min_lr}; they must be 0 <= min_lr <= lr.", lr=lr, min_lr=min_lr)
    if not 0 <= warmup_steps < steps:
        raise ConfigError(
            f"warmup_steps is {warmup_steps}; it must be at least 0 and less than the {steps} steps of the run.",
            warmup_steps=warmup_steps,
        )
    if steps_per_epoch is not None:
        if steps_per_epoch < 1:
            raise ConfigError(f"steps_per_epoch is {steps_per_epoch}; it must be at least 1.", key="steps_per_epoch")
        step -= step % steps_per_epoch
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    progress = min((step - warmup_steps) / (steps - warmup_steps), 1.0)
    return min_lr + (lr - min_lr) / 2 * (1 + math.cos(math.pi * progress))
