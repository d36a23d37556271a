"""What every stage returns: what it made, or that nothing had to be made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cusa.manifests.ledger import Ledger


@dataclass(frozen=True)
class Outcome:
    """The end of a stage."""

    stage: str
    out: Path
    fresh: bool
    """True if work was done, False if the output was up to date."""
    why: str
    """Why work was done: `never finished`, `images changed`...; empty if up to date."""
    counts: Mapping[str, int | float]
    seconds: float
    notes: tuple[str, ...] = field(default=())
    """Full sentences a person should read."""


def outcome(out: Path, ledger: Ledger, *, why: str = "", notes: tuple[str, ...] = ()) -> Outcome:
    """Make the outcome of a stage from its ledger; `why` is empty where the stage was up to date."""
    return Outcome(ledger.stage, out, bool(why), why, ledger.counts, ledger.seconds if why else 0.0, notes)
