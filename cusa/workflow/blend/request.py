"""A blend as it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import ConfigError
from cusa.workflow.blend import grid as grids

START = "start"
"""Stands for the model that the run started from, made anew from its recipe."""


@dataclass(frozen=True)
class BlendRequest:
    """Between which models, at which points, measured on what."""

    base: str
    """A run, a model folder, a checkpoint file, a hub name; or `start`."""
    run: str
    """A run or model folder; of what was fine-tuned from the base."""
    out: Path
    """Folder of the results."""
    data: Path | None = None
    """Work folder of the new task; the run's own when None."""
    split: str = ""
    """Of the new task; the run's validation split, else `val`, when empty."""
    guards: Sequence[str] = ()
    """`WORK` or `WORK:SPLIT` of what the base could do: retrieval where the split has captions, zero-shot classes where
    it has labels. The split is `test` when not named."""
    grid: str = "0:1:0.1"
    """As `cusa.workflow.blend.grid.parse` reads it."""
    choose: str = ""
    """As `cusa.workflow.blend.grid.parse_choice` reads it; no model is written when empty."""
    settings: Sequence[str] = ()
    """`key=value` of `cusa.eval.config.EvalConfig`."""
    trust: Sequence[str] = ()
    """Classes outside cusa, `module:Class`, that a model's folder may name."""
    force: bool = False
    """Measure again even if nothing changed."""

    def points(self) -> tuple[float, ...]:
        """Return every point, rising: the grid's, and the one that is named.

        Raises:
            ConfigError: if the grid or the choice cannot be read, or a rule needs the base and the grid lacks it.
        """
        alphas, choice = grids.parse(self.grid), grids.parse_choice(self.choose)
        if choice is not None and choice.most_lost is not None and alphas[0] != 0:
            raise ConfigError(
                f"--choose {self.choose} compares with the base, and --grid {self.grid} does not hold 0. Add it.",
                grid=self.grid,
            )
        named = () if choice is None or choice.alpha is None else (choice.alpha,)
        return tuple(sorted({*alphas, *named}))
