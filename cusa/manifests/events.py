"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable

OnEvent = Callable[[str, int, int], None]
"""Called with what is being done (a few words), how many units are done, and how many there are."""


def ignore(what: str, done: int, total: int) -> None:
    """Listen to nothing: the default listener of every stage."""
