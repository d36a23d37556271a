"""A blend as it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import ConfigError, DataError
from cusa.manifests import ledger
from cusa.manifests.storage import store
from cusa.workflow.blend import grid as grids

MODEL = "model"
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

    @property
    def model(self) -> Path:
        """Folder of the point that is chosen."""
        return self.out / MODEL

    @property
    def holds_own_model(self) -> bool:
        """Whether the model there is a blend's."""
        card = self.model / "student.json"
        return card.is_file() and "blend" in store.read_json(card)

    def refuse_to_replace(self) -> None:
        """Refuse a folder in which a parent, another stage's output or somebody else's model would be lost.

        Raises:
            ConfigError: if it is one of both parents, lies in the weights of one, or its model is one.
            DataError: if something else is there.
        """
        out, model = self.out.resolve(), self.model.resolve()
        for what, name in (("BASE", self.base), ("RUN", self.run)):
            parent = Path(name).expanduser().resolve()
            weights = parent / "model" if (parent / "model").is_dir() else parent
            if out == parent or weights == out or weights in out.parents or model in (weights, *weights.parents):
                raise ConfigError(
                    f"--out {self.out} would be written over {what}, {name}. Name another folder.", option="--out"
                )
        written = ledger.read(self.out / "ledger.json")
        if written is not None and written.stage != "blend":
            raise DataError(
                f"--out {self.out} holds what `cusa {written.stage}` wrote. Name another folder.", path=self.out
            )
        if self.choose and self.model.exists() and not self.holds_own_model:
            raise DataError(
                f"{self.model}, where the chosen point goes, is no blend's model. Name another --out.", path=self.model
            )

    def points(self) -> tuple[float, ...]:
        """Return every point, rising: the grid's, and the one that is named.

        Raises:
            ConfigError: if the grid or the choice cannot be read, or a rule needs the base and the grid lacks it, or
                guards and there is none.
        """
        alphas, choice = grids.parse(self.grid), grids.parse_choice(self.choose)
        if choice is not None and choice.most_lost is not None and not self.guards:
            raise ConfigError(
                f"--choose {self.choose} asks what guards lose, and none is named. Name one with --guard WORK:SPLIT, "
                "or write --choose best.",
                choose=self.choose,
            )
        if choice is not None and choice.most_lost is not None and alphas[0] != 0:
            raise ConfigError(
                f"--choose {self.choose} compares with the base, and --grid {self.grid} does not hold 0. Add it.",
                grid=self.grid,
            )
        named = () if choice is None or choice.alpha is None else (choice.alpha,)
        return tuple(sorted({*alphas, *named}))
