"""Which split a row belongs to: what a cell, a file's name or a folder's name says, in whole words."""

import math
import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError
from cusa.pipeline.config import ReadConfig

SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Words for a split, in lower case -> the split; `restval` trains, as in every paper."""
_SEVERAL = {"trainval": ("train", "val"), "eval": ("val", "test"), "evaluation": ("val", "test")}
"""Words that may mean either."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FOLDER = re.compile(r"[A-Za-z0-9_-]+")
_MOST_UNKNOWN = 20
"""Different unknown values after which reading stops: such a column holds no splits."""


def split_option(value: str, option: str = "--split") -> str:
    """Return the split that an option, or a file's whole name, names: a synonym's split, else the name as it is.

    Raises:
        ConfigError: if the name cannot be a folder's.
    """
    name = SPLITS.get(value.strip().casefold(), value.strip())
    if name and not _FOLDER.fullmatch(name):
        raise ConfigError(
            f"{option} {value!r} cannot be the name of a split's folder. Use letters, digits, '_' and '-'.",
            option=option,
        )
    return name


def named_splits(name: str) -> list[str]:
    """Return the splits that the words of a file's name mean: `captions_val2014` is val, `latest` is none."""
    splits: set[str] = set()
    for word in _WORD.findall(name):
        lower = word.lower()
        splits.update([SPLITS[lower]] if lower in SPLITS else _SEVERAL.get(lower, ()))
    return sorted(splits)


def named_split(name: str) -> str:
    """Return the one split that a file's name means; empty if it means none or several."""
    splits = named_splits(name)
    return splits[0] if len(splits) == 1 else ""


def default_split(config: ReadConfig, *names: str) -> str:
    """Return the split of rows that name none: the given one, else that of the first name with one, else train.

    Args:
        config: has the given split.
        names: a file's name, then its folder's...

    Raises:
        DataError: if a name means several splits.
    """
    if config.split:
        return split_option(config.split)
    for name in names:
        splits = named_splits(name)
        if len(splits) > 1:
            raise DataError(
                f"The name {name!r} may mean {' or '.join(splits)}. Say with --split which split the rows without one "
                "belong to.",
                name=name,
            )
        if splits:
            return splits[0]
    return "train"


def default_note(config: ReadConfig, *names: str) -> tuple[str, ...]:
    """Say that rows without a split will train, where neither an option nor a name is the reason."""
    if config.split or any(named_splits(name) for name in names):
        return ()
    return (f"Neither --split nor the name {names[0]!r} names a split: rows without one are train.",)


class RowSplits:
    """The splits that rows name themselves, and the values that are none.

    Args:
        source: the file, for the error message.
        config: the given split, and the user's own names of splits.
        names: the names that say the split of rows that name none.
    """

    def __init__(self, source: Path, config: ReadConfig, *names: str) -> None:
        self._source = source
        self._config = config
        self._names = names
        self._own = {
            value.strip().casefold(): split_option(split, "--split-name") for value, split in config.split_names.items()
        }
        self._unknown = Counter[str]()

    def of(self, value: Any) -> str:
        """Return the split of a row that has this value; empty if the value is no split.

        Raises:
            DataError: if there are too many values that are none, or the row names none and the default is not clear.
        """
        if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
            return self._default
        word = str(value).strip()
        lower = word.casefold()
        split = self._own.get(lower) or SPLITS.get(lower, "")
        if not split:
            self._unknown[word] += 1
            if len(self._unknown) >= _MOST_UNKNOWN:
                self.check()
        return split

    @cached_property
    def _default(self) -> str:
        return default_split(self._config, *self._names)

    def check(self) -> None:
        """Refuse the source if a row named a split that is none.

        Raises:
            DataError: with every such value and its rows.
        """
        if not self._unknown:
            return
        values = ", ".join(f"{value[:40]!r} ({rows} rows)" for value, rows in self._unknown.items())
        first = next(iter(self._unknown))[:40]
        raise DataError(
            f"{self._source} names splits that are not known: {values}. Known are {', '.join(SPLITS)}, in any case. "
            f"Correct the values, or say what they mean: --split-name {first!r}=test; --split-name NAME=NAME keeps a "
            "split of your own.",
            source=self._source,
            values=dict(self._unknown),
        )
