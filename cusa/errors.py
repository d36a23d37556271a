"""What goes wrong for a user, as named errors that carry their values.

Every message names the key, the value, what is allowed and the way out. Programmers' mistakes are `assert`s, not these.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class CusaError(ValueError):
    """Base of every error a user can cause and mend.

    Args:
        message: one or more full sentences, with the way out.
        **values: what the message speaks of, kept as attributes in `values` for programs.
    """

    def __init__(self, message: str, **values: Any) -> None:
        super().__init__(message)
        self.values = values


class ConfigError(CusaError):
    """A recipe, an option or a `--set` that says something impossible."""


class DataError(CusaError):
    """A file that is missing, truncated, corrupt or of another kind than expected."""


class StaleError(CusaError):
    """Two files that do not belong together: one was made from an older state of the other."""


class BusyError(CusaError):
    """A folder that another process is writing.

    Args:
        folder: the folder.
        holder: the process; its text says which command, where and since when.
    """

    def __init__(self, folder: Any, holder: Any) -> None:
        super().__init__(
            f"{folder} is being written by {holder}. Wait until that has ended (--wait does), stop it, or choose "
            "another --out.",
            folder=folder,
            holder=holder,
        )


class StoppedError(CusaError):
    """A stage that was asked to stop (SIGTERM, Ctrl-C) and did so cleanly; run it again to go on."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `Did you mean 'train.steps'?`; empty where nothing is near to what the user wrote."""
    match = get_close_matches(name, sorted(set(allowed)), n=1, cutoff=0.5)
    return f"Did you mean {match[0]!r}?" if match else ""


_SHOWN = 8  # names that are all listed; of more only the nearest few


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `allowed` as a readable list, the nearest match to `name` first in words; of many names the five nearest.

    Args:
        name: what the user wrote.
        allowed: the valid names.

    Returns:
        For example `Did you mean 'train.steps'? Allowed: train.epochs, train.steps`, or `Did you mean 'coco'? The
        nearest of 57: coco, ...`.
    """
    options = sorted(set(allowed))
    near = get_close_matches(name, options, n=5, cutoff=0.0)
    hint = did_you_mean(name, options)
    hint += " " if hint else ""
    if len(options) > _SHOWN:
        return f"{hint}The nearest of {len(options)}: {', '.join(near)}"
    return f"{hint}Allowed: {', '.join(options) if options else '(nothing)'}"


_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def reason(error: BaseException) -> str:
    """Return the first line of a library's error for a message of ours: without control sequences, never empty.

    Args:
        error: any exception.

    Returns:
        For example `Header too large.`; the name of the error's class where it has no text.
    """
    text = _TERMINAL.sub("", str(error)).strip()
    first = text.splitlines()[0].strip() if text else type(error).__name__
    return first if first.endswith((".", "!", "?")) else f"{first}."
