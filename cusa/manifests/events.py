"""How a stage reports its progress: callbacks that its caller gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

OnEvent = Callable[[str, int, int], None]
"""Called with what is being done (a few words), how many units are done, and how many there are."""
OnMetrics = Callable[[int, Mapping[str, float]], None]
"""Called with a step and its metrics by name."""


def ignore(what: str, done: int, total: int) -> None:
    """Do nothing: the default of every stage."""


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of training, or of a whole recipe."""

    on_event: OnEvent = ignore
    """Progress of every stage."""
    on_metrics: OnMetrics = lambda step, values: None
    """Every row of metrics."""
    on_message: Callable[[str], None] = lambda text: None
    """A sentence before each stage."""
    should_stop: Callable[[], bool] = lambda: False
    """When true, the training step's checkpoint is written and StoppedError raised."""


SILENT = Callbacks()
"""Callbacks that do nothing."""
