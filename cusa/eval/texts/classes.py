"""What the classes of a labelled split are called: by a rule from their labels, or by a file of names.

Legend: I images, K classes.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cusa.errors import DataError
from cusa.manifests.storage import store

_NUMBER = re.compile(r"^\d+[._\-\s]+(?=[^\W\d_])")
_WORDNET = re.compile(r"n\d{8}")
_FILE = "Give a file of names with --set class_names=FILE: `label<TAB>name` a line, or a JSON object of labels."


@dataclass(frozen=True)
class Classes:
    """The classes of a split.

    Attributes:
        labels: (K,) as the split has them, in the order in which they first come.
        names: (K,) what each is called in a prompt; no two alike.
        of_image: (I,) int64, the class of each image; -1 where it has no label.
        source: where the names come from, for people.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    of_image: np.ndarray
    source: str


def of_labels(labels: Sequence[str], file: str = "") -> Classes:
    """Name the classes of labelled images.

    Args:
        labels: (I,) of each image; empty where it has none.
        file: of the names; by the rule of `name_of` if empty, or if it has none of these labels.

    Raises:
        DataError: if fewer than two classes are there, a label has no name, or two classes have the same one.
    """
    distinct = list(dict.fromkeys(label for label in labels if label))
    if len(distinct) < 2:
        there = "no image has a label" if not distinct else f"every label is {distinct[0]!r}"
        raise DataError(f"There are no classes to choose between: {there}.")
    if file and not names_some(labels, file):
        file = ""  # for other data, evaluated together with these
    given = _read(Path(file).expanduser()) if file else None
    names = [name_of(label) if given is None else given.get(label, "") for label in distinct]
    for label, name in zip(distinct, names, strict=True):
        if not name and given is not None:
            raise DataError(f"{file} has no name for the label {label!r}. Add a line for it.", path=file, label=label)
        if not name:
            raise DataError(f"The label {label!r} is no name of a class. {_FILE}", label=label)
    _refuse_numbers(distinct, names, given is None)
    _refuse_doubles(distinct, names, file)
    row = {label: number for number, label in enumerate(distinct)}
    source = f"names of {Path(file).name}" if file else "names by rule from the labels"
    of_image = np.array([row.get(label, -1) for label in labels], np.int64)
    return Classes(tuple(distinct), tuple(names), of_image, source)


def names_some(labels: Sequence[str], file: str) -> bool:
    """Return whether a file of names has one of some labels.

    Raises:
        DataError: if it cannot be read, or a line is no label with a name.
    """
    return not _read(Path(file).expanduser()).keys().isdisjoint(labels)


def name_of(label: str) -> str:
    """Return what a label says in words: its last folder, without a running number before it, `_` as blanks.

    `001.Black_footed_Albatross` becomes `Black footed Albatross`. Empty where no word is left: numbers, WordNet's ids.
    """
    name = label.replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = " ".join(_NUMBER.sub("", name).replace("_", " ").split())
    return name if re.search(r"[^\W\d_]", name) and not _WORDNET.fullmatch(name) else ""


def _refuse_numbers(labels: Sequence[str], names: Sequence[str], by_rule: bool) -> None:
    """Refuse labels that are one word with a number each, such as `id_00000025`: no model knows what they mean."""
    if by_rule and len({re.sub(r"\d+", "", name) for name in names}) == 1:
        raise DataError(
            f"The labels differ in their numbers alone ({labels[0]!r}, {labels[1]!r}): they name no class. {_FILE}",
            label=labels[0],
        )


def _refuse_doubles(labels: Sequence[str], names: Sequence[str], file: str) -> None:
    first: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        other = first.setdefault(name.casefold(), label)
        if other != label:
            way = f"Give them different names in {file}." if file else _FILE
            raise DataError(
                f"The classes {other!r} and {label!r} are both called {name!r}: no prompt could tell them apart. {way}",
                labels=[other, label],
            )


def _read(path: Path) -> Mapping[str, str]:
    """Return label -> name of a file.

    Raises:
        DataError: if it cannot be read, or a line is no label with a name.
    """
    try:
        if path.suffix.lower() == ".json":
            content = store.read_json(path)
            pairs: list[tuple[Any, ...]] = list(content.items()) if isinstance(content, dict) else []
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                comma = path.suffix.lower() == ".csv"
                rows = csv.reader(file) if comma else csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                pairs = [tuple(row) for row in rows if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The names of classes {path} cannot be read ({error}). {_FILE}", path=path) from error
    names: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not all(isinstance(cell, str) and cell.strip() for cell in pair):
            raise DataError(f"{path}: entry {number} is {pair!r:.80}, and not a label and its name. {_FILE}", path=path)
        label, name = (" ".join(cell.split()) for cell in pair)
        if names.setdefault(label, name) != name:
            raise DataError(f"{path}: {label!r} has two names, {names[label]!r} and {name!r}.", path=path, label=label)
    if not names:
        raise DataError(f"{path} names no class. {_FILE}", path=path)
    return names
