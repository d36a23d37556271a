"""Recipes as text: what every key may be, a packaged recipe as one TOML file, and a new one of what matters."""

import json
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cusa import recipe as recipes
from cusa.errors import ConfigError
from cusa.models.config import STUDENT_KINDS
from cusa.recipe import Recipe


@dataclass(frozen=True)
class Key:
    """One key of a recipe."""

    name: str
    """Dotted."""
    default: Any
    """None where it has none, or is not set."""
    allowed: str
    """In words: the choices, or a kind of value with its range."""
    meaning: str
    whole: bool = False
    """Whether its section is written whole or not at all: a temperature, whose bounds belong to where it starts."""


def every_key() -> list[Key]:
    """Return every key of a recipe, in the classes' order."""
    return [key for key in _keys(Recipe, Recipe(name=""), "") if key.name != "parts"]


def _keys(model: type[BaseModel], defaults: BaseModel, prefix: str, about: str = "") -> Iterable[Key]:
    """Give the keys of a section; `about` says what the section is, where its keys alone do not."""
    whole = bool(prefix) and any(field.is_required() for field in model.model_fields.values())
    for name, field in model.model_fields.items():
        value = getattr(defaults, name)
        meaning = f"{about}{field.description or ''}"
        if isinstance(value, BaseModel):
            yield from _keys(type(value), value, f"{prefix}{name}.", f"{meaning}; " if field.description else "")
        else:
            yield Key(f"{prefix}{name}", value, _allowed(field), meaning, whole)


_WORDS = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", tuple: "list", dict: "table"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _allowed(field: FieldInfo) -> str:
    """Return what a field may be, in words."""
    words = _of_type(field.annotation)
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in _SIGNS.items()
        if getattr(rule, name, None) is not None
    ]
    return " ".join([words, *([" and ".join(bounds)] if bounds else [])])


def _of_type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _of_type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_of_type(part) for part in get_args(annotation) if part is not type(None))
    return _WORDS.get(origin or annotation, "text")


_BARE = re.compile(r"[A-Za-z0-9_-]+").fullmatch


def toml(value: Any) -> str:
    """Return a value as TOML writes it; only what a recipe's keys can hold."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key if _BARE(key) else toml(key)} = {toml(item)}" for key, item in value.items())
        return "{ " + inner + " }" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    # JSON's words are TOML's, but for a control character that JSON leaves as it is.
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(value: Any) -> str:
    """Return a value as TOML, a list of tables with a line for each."""
    if not (isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)):
        return toml(value)
    return "[\n" + "".join(f"    {toml(item)},\n" for item in value) + "]"


def show(name: str, settings: Iterable[str] = (), *, everything: bool = False) -> str:
    """Return a recipe as one TOML file, its bases and pieces put together.

    Args:
        name: of a packaged recipe, or a TOML file.
        settings: overrides.
        everything: with the keys that have their default values, too.

    Raises:
        ConfigError: for an unknown recipe, key or value.
    """
    loaded = recipes.load(name, settings)
    values = _values(loaded)
    chosen = {key.name for key in every_key() if everything or values.get(key.name) != key.default}
    head = ""
    if loaded.parts:
        head = "# The mean of students that are trained apart: " + ", ".join(part.name for part in loaded.parts) + ".\n"
    if not everything:
        head += "# Keys at their defaults are left out: --all shows them.\n"
    return head + _write(_whole(chosen), values)


STARTS: Mapping[str, tuple[str, str]] = {
    "scratch": ("tiny", "a small CLIP of random weights, for a first run"),
    "heads": ("heads", "heads on the tables of two frozen encoders: minutes on a CPU"),
}
"""Students of a new recipe, beside a hub name, folder or file -> the packaged recipe it starts from, what it is."""

MATTERS = (
    *("teachers.image", "teachers.text", "student.kind", "student.name"),
    *("loss.alpha", "loss.beta", "loss.reduction", "loss.teacher_image_temperature.initial"),
    *("train.batch", "train.epochs", "train.steps", "train.lr", "train.min_lr", "train.warmup_steps"),
    *("train.validate_every", "train.seed"),
)
"""Keys that a new recipe begins with; all others stay at what its base says."""


def new(student: str, settings: Iterable[str] = ()) -> str:
    """Return the text of a new recipe: only what matters, each key with its meaning and what it may be.

    Args:
        student: `scratch`, `heads`, or what a pretrained dual encoder is loaded from: a hub name, folder or file.
        settings: overrides; their keys stand in the file too.

    Raises:
        ConfigError: for an unknown key or value.
    """
    settings = tuple(settings)
    if student in STARTS:
        base, what = STARTS[student]
        loaded = recipes.load(base, settings)
        first = f'base = ["{base}"]  # {what}; its values hold where none stands here\n'
    else:
        _refuse_kinds(student)
        # The reduction with which the paper's weights act; read literally they change nothing (docs/findings.md).
        settings = (f"student.name={json.dumps(student)}", "loss.reduction=release", *settings)
        loaded, first = recipes.section(Recipe, settings, base={"name": "new"}), ""
    chosen = {"description", *MATTERS, *(setting.partition("=")[0].strip() for setting in settings)}
    values = _values(loaded) | {"description": "What this recipe is for."}
    head = (
        "# `cusa train THIS --data WORK --out RUN` trains by this recipe, `cusa run THIS --data WORK` does it all.\n"
        "# docs/recipe.md has every key; `cusa recipe show NAME` shows a packaged recipe.\n"
    )
    return head + first + _write(_whole(chosen), values, comments=True)


def _refuse_kinds(student: str) -> None:
    """Refuse the name of a kind of student, or nearly `scratch` or `heads`, where a model's name belongs."""
    if Path(student).exists():
        return
    starts = ", ".join(STARTS)
    kind = student.lower().replace("_", "-")
    if kind in STUDENT_KINDS and kind not in STARTS:
        raise ConfigError(
            f"--student {student}: that is a kind of student, and none that a new recipe starts from. Allowed: "
            f"{starts}, or a hub name, folder or file. Write `--student NAME --set student.kind={kind}`.",
            option="--student",
            value=student,
        )
    if near := get_close_matches(student.lower(), STARTS, n=1, cutoff=0.8):
        raise ConfigError(
            f"--student {student}: there is no such start. Did you mean {near[0]!r}? Allowed: {starts}, or a hub name, "
            f"folder or file; a folder of that name is written ./{student}.",
            option="--student",
            value=student,
        )


def _whole(names: set[str]) -> list[Key]:
    """Return the keys of these names, and with one of a section that is written whole all of it."""
    keys = every_key()
    sections = {key.name.rpartition(".")[0] for key in keys if key.whole and key.name in names}
    return [key for key in keys if key.name in names or key.name.rpartition(".")[0] in sections - {""}]


def _values(loaded: Recipe) -> dict[str, Any]:
    """Return the dotted keys of a recipe with their values, those that are not set left out."""

    def walk(section: BaseModel, prefix: str) -> Iterable[tuple[str, Any]]:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                yield from walk(value, f"{prefix}{name}.")
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                yield f"{prefix}{name}", [one.model_dump(mode="json") for one in value]
            elif value is not None:
                yield f"{prefix}{name}", value

    return dict(walk(loaded, ""))


def _write(keys: Iterable[Key], values: Mapping[str, Any], *, comments: bool = False) -> str:
    """Write keys under their sections."""
    lines: list[str] = []
    section = ""
    keys = [key for key in keys if key.name in values]
    sections = list(dict.fromkeys(["", *(key.name.rpartition(".")[0] for key in keys)]))  # TOML names each once
    for key in sorted(keys, key=lambda key: sections.index(key.name.rpartition(".")[0])):
        parent, _, last = key.name.rpartition(".")
        if parent != section:
            section = parent
            lines += ["", f"[{section}]"]
        line = f"{last} = {_lines(values[key.name])}"
        if comments and parent:
            choices = f" ({key.allowed.replace('`', '')})" if "`" in key.allowed else ""
            line += f"  # {key.meaning.replace(chr(10), ' ')}{choices}"
        lines.append(line)
    return "\n".join(lines) + "\n"
