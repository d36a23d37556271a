"""One frozen, validated recipe from TOML files and `--set a.b=c`.

The paper's recipes are composed: `MODEL/DATA/METHOD`, for example `clip-vit-b-32/coco/cusa`. What each piece says is
merged in this order, later values winning: `data/DATA.toml`, `model/MODEL.toml`, the model's own `[on.DATA]` (what
belongs to the two together: epochs, the form of the data), `method/METHOD.toml`, and the published figures of
`expected/MODEL.toml`. A user's `--set` comes last. A model with `ensemble = ["a", "b"]` is the mean of models that are
trained apart; its recipe holds theirs as `parts`. A model goes only with the data that it has an `[on.DATA]` for.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from difflib import get_close_matches
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from cusa.data_config import FORMS, DataConfig, MixedSet
from cusa.errors import ConfigError, nearest
from cusa.eval.config import EvalConfig
from cusa.manifests.settings import Settings
from cusa.models.config import StudentConfig
from cusa.train.config import LossConfig, TrainConfig

Model = TypeVar("Model", bound=BaseModel)

KINDS = ("model", "data", "method")
"""The pieces of a composed recipe's name, in its order."""

_FOLDER = resources.files("cusa.manifests") / "recipes"


class TeachersConfig(Settings):
    """Whose tables teach; an empty name means the split's only teacher of that modality."""

    image: str = Field(
        default="",
        description="image teacher: its tables' name, a folder, a hub name or module:Class (`cusa list teachers`)",
    )
    text: str = Field(default="", description="text teacher, likewise")


class AuditConfig(Settings):
    """Which splits `cusa run` audits; those with candidates tell what training takes for wrong though it is right."""

    splits: tuple[str, ...] = Field(
        default=(),
        description="splits that `cusa run` indexes and audits, `train` among them or not; empty = `data.test`",
    )


class Change(NamedTuple):
    """A key that overrides gave another value than the recipe of that name has; both as TOML or JSON write them."""

    key: str
    recipe: str
    set: str


class Recipe(Settings):
    """Everything a run depends on besides the data."""

    name: str = Field(description="the run's short name")
    description: str = Field(default="", description="what the recipe is for, and where it departs from the paper")
    data: DataConfig = DataConfig()
    teachers: TeachersConfig = TeachersConfig()
    audit: AuditConfig = AuditConfig()
    student: StudentConfig = Field(default_factory=StudentConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    expected: dict[str, float] = Field(
        default_factory=dict,
        description="published figures by metric, as `cusa sweep` names them: [DATA SET/]TASK/METRIC",
    )
    parts: tuple["Recipe", ...] = Field(
        default=(), description="of an ensemble: the students that are trained apart and averaged"
    )
    _changes: tuple[Change, ...] = PrivateAttr(default=())

    @property
    def changes(self) -> tuple[Change, ...]:
        """What overrides changed; the recipe's own words do not speak of it."""
        return self._changes


def load(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    A recipe file may begin with `base = ["other"]`: recipes it starts from, by name or by path relative to itself;
    later ones and the recipe's own keys win. Of a base it takes neither name, description nor expected figures.

    Args:
        name: the name of a packaged recipe (see `packaged`) or the path of a TOML file.
        overrides: `a.b=c` each; c is read as TOML, and as a text where it is none. They reach an ensemble's parts too.

    Returns:
        The recipe, every default filled in.

    Raises:
        ConfigError: for an unknown recipe, key or value; the message gives the dotted path and the nearest valid name.
    """
    overrides = tuple(overrides)
    content = _read(name, None, ())
    content.setdefault("name", Path(name).stem)
    own = deepcopy(content)
    for override in overrides:
        _set(content, override)
    if content.get("parts"):
        content["parts"] = [load(part, overrides) for part in content["parts"]]
    try:
        loaded = Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, keys()), recipe=name) from None
    if overrides:
        loaded._changes = _changes(own, loaded)
    return loaded


def _changes(own: Mapping[str, Any], loaded: Recipe) -> tuple[Change, ...]:
    """Return what differs from the recipe without overrides.

    Args:
        own: the recipe's content; it may be no recipe without them, and then what it leaves open counts as changed.
        loaded: with the overrides.
    """
    try:
        before = _flat(Recipe.model_validate({**own, "parts": ()}).model_dump(mode="json"))
    except ValidationError:
        before = _flat(own)
    now = _flat(loaded.model_dump(mode="json", exclude={"parts", "expected"}))
    return tuple(
        Change(key, before.get(key, "nothing"), value) for key, value in now.items() if before.get(key) != value
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every value by its dotted key."""
    lines: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            lines |= _flat(value, f"{prefix}{key}.")
        else:
            lines[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return lines


def smoke_settings(kind: str) -> list[str]:
    """Return the overrides that make a recipe small: drawn scenes, their offline teachers, a tiny student of its kind.

    Raises:
        ConfigError: if there is no small student of this kind.
    """
    if kind not in pieces("smoke"):
        raise ConfigError(f"There is no small student of kind {kind!r}. {nearest(kind, pieces('smoke'))}.", kind=kind)
    return _assignments(_piece("smoke", kind), "")


def _assignments(settings: Mapping[str, Any], prefix: str) -> list[str]:
    """Turn nested tables into `a.b=c`; JSON's values are TOML's too."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += _assignments(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines


def section(
    model: type[Model], overrides: Iterable[str], *, base: Mapping[str, Any] | None = None, name: str = ""
) -> Model:
    """Make one configuration from its defaults, values already known, and `key=value` overrides.

    Args:
        model: the configuration's class.
        overrides: `key=value`.
        base: values already known.
        name: of the section in a recipe; keys may be written with it, `eval.rerank` for `rerank`.

    Raises:
        ConfigError: for an unknown key or a value out of range.
    """
    content: dict[str, Any] = dict(base or {})
    for override in overrides:
        _set(content, override.removeprefix(f"{name}.") if name else override)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error, keys(model))) from None


def packaged() -> list[str]:
    """Return the names of the recipes that come with the package: whole ones, and MODEL/DATA/METHOD.

    A model goes with the data that its `on` names.
    """
    goes_with = {model: _piece("model", model).get("on", {}) for model in pieces("model")}
    composed = [
        f"{model}/{data}/{method}"
        for model, data, method in product(*(pieces(kind) for kind in KINDS))
        if data in goes_with[model]
    ]
    return [*pieces(""), *composed]


def pieces(kind: str) -> list[str]:
    """Return what can stand in one place of MODEL/DATA/METHOD.

    Args:
        kind: `model`, `data`, `method`, or `treatment` (what a sweep's `method` may be besides); empty for the recipes
            that are whole in themselves.
    """
    folder = _FOLDER / kind if kind else _FOLDER
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def method_settings(method: str) -> list[str]:
    """Return what a method sets, as overrides for any recipe.

    Args:
        method: `baseline`, `csa`, `usa`, `cusa`: which weights are taken away; or another treatment of false negatives,
            without USA: `mask`, `gist`, `label-smoothing`, `sigmoid`, `calibrated`, `debiased`, `hardness`,
            `thresholds`.

    Raises:
        ConfigError: if there is no such method.
    """
    for kind in ("method", "treatment"):
        if method in pieces(kind):
            return _assignments(_piece(kind, method).get("loss", {}), "loss.")
    there = [*pieces("method"), *pieces("treatment")]
    raise ConfigError(f"There is no method {method!r}. {nearest(method, there)}.", method=method)


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Return every dotted key of a recipe with its description."""
    descriptions: dict[str, str] = {}
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            descriptions |= keys(field.annotation, f"{dotted}.")
        else:
            descriptions[dotted] = field.description or ""
    return descriptions


def _read(name: str, relative_to: Path | None, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(
            f"Recipe {name!r} is its own base: {' -> '.join((*seen, name))}. Remove one of them.", recipe=name
        )
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        path = path if relative_to is None or path.is_absolute() else relative_to / path
        if not path.is_file():
            raise ConfigError(
                f"There is no recipe file {path}. `cusa recipe new {path}` writes one, `cusa list recipes` shows "
                "the packaged ones.",
                recipe=name,
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"Recipe {path} is no text in UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.",
                recipe=name,
            ) from error
    elif name in pieces(""):
        text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    elif name in packaged():
        return _compose(name)
    else:
        raise ConfigError(
            f"There is no recipe {name!r}. {nearest(name, packaged())}, or a path ending in .toml.", recipe=name
        )
    try:
        own = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Recipe {name} is no TOML: {error}.", recipe=name) from error
    bases = own.pop("base", [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"Recipe {name}: base is {bases!r}; it must be a list of recipe names.", recipe=name)
    merged: dict[str, Any] = {}
    for base in bases:
        inherited = _read(base, path.parent if path.suffix == ".toml" else None, (*seen, name))
        if inherited.get("parts"):
            raise ConfigError(
                f"Recipe {name} starts from {base!r}, which is the mean of {', '.join(inherited['parts'])}. Start from "
                "one of these.",
                recipe=name,
            )
        own_only = ("name", "description", "expected")
        _merge(merged, {key: value for key, value in inherited.items() if key not in own_only})
    _merge(merged, own)
    return merged


def _compose(name: str) -> dict[str, Any]:
    """Merge the pieces of MODEL/DATA/METHOD; see the module's first lines for the order."""
    model, data, method = name.split("/")
    tables = {kind: _piece(kind, piece) for kind, piece in zip(KINDS, (model, data, method), strict=True)}
    together = tables["model"].pop("on", {}).get(data, {})
    ensemble = tables["model"].pop("ensemble", [])
    description = " ".join(tables[kind].pop("description") for kind in KINDS)
    merged: dict[str, Any] = {}
    for piece in (tables["data"], tables["model"], together, tables["method"]):
        _merge(merged, piece)
    taught = merged["loss"].get("false_negatives") in ("mask", "debiased")
    if not (merged["loss"]["alpha"] or merged["loss"]["beta"] or taught):
        merged.pop("teachers", None)  # nothing reads them
    figures = _piece("expected", model).get(data, {}).get(method, {})
    parts = [f"{part}/{data}/{method}" for part in ensemble]
    return {"name": name, "description": description, **merged, "expected": figures, "parts": parts}


def _piece(kind: str, name: str) -> dict[str, Any]:
    """Read one packaged piece, and the pieces of its kind that it starts from."""
    own = tomllib.loads((_FOLDER / kind / f"{name}.toml").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    for base in own.pop("base", []):
        _merge(merged, _piece(kind, base))
    _merge(merged, own)
    return merged


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _set(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override!r} is no assignment. Write --set train.steps=500.", override=override)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    section = content
    *parents, last = dotted.strip().split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {dotted}: {parent} holds a value, not a section.", override=override)
    section[last] = value


_OWN_WORDS = {
    "model_type": "Input should be a section, that is a table of keys and values",
    "tuple_type": "Input should be a list",
}
"""Findings that pydantic tells in the words of Python's types."""


def _explain(error: ValidationError, known: Mapping[str, str]) -> str:
    """Turn pydantic's findings into sentences with dotted paths and nearest names."""
    sentences = []
    for finding in error.errors():
        dotted = _dotted(finding["loc"])
        if finding["type"] == "extra_forbidden":
            of_sets = [f"{dotted.rpartition('.')[0]}.{key}" for key in MixedSet.model_fields]
            near = of_sets if dotted.startswith("data.train.") else known
            sentences.append(f"Unknown key {dotted!r}. {_nearest_keys(dotted, near, finding['input'])}.")
        elif finding["type"] == "value_error":  # of several keys together; our own words name them and their values
            words = finding["msg"].removeprefix("Value error, ")
            sentences.append(f"{dotted}: {words}." if dotted else f"{words}.")
        elif finding["type"] == "model_type" and _is_mixed_set(dotted):
            sentences.append(
                f"{dotted} = {finding['input']!r}: a data set of a mixture is a table with the keys "
                f'{", ".join(MixedSet.model_fields)}, such as {{ data = "FOLDER", split = "train", weight = 1 }}. '
                'Of one split the name alone is given: data.train = "train".'
            )
        else:
            words = _OWN_WORDS.get(finding["type"], finding["msg"])
            sentences.append(f"{dotted} = {finding['input']!r}: {words}. ({_description(dotted, known)})")
    return " ".join(sentences)


def _is_mixed_set(dotted: str) -> bool:
    return dotted.startswith("data.train.") and dotted.count(".") == 2


def _description(dotted: str, known: Mapping[str, str]) -> str:
    """Return what a key is for; a key of a mixture's set has its description in the set's own section."""
    keys = sorted({key.removeprefix(f"{dotted}.").partition(".")[0] for key in known if key.startswith(f"{dotted}.")})
    if keys:
        return f"its keys: {', '.join(keys)}"
    of_set = MixedSet.model_fields.get(dotted.rpartition(".")[2]) if dotted.startswith("data.train.") else None
    return known.get(dotted) or (of_set and of_set.description) or "see the recipe"


def _dotted(place: tuple[int | str, ...]) -> str:
    """Return a finding's dotted key; of a list the numbers count from 1, as in every other message."""
    if len(place) > 2 and place[1] == "train" and place[2] in FORMS:
        place = (*place[:2], *(part + 1 if isinstance(part, int) else part for part in place[3:]))
    return ".".join(str(part) for part in place)


def _nearest_keys(dotted: str, known: Iterable[str], value: object) -> str:
    """Say which keys an unknown one is near to: those of its section; of a lone name, keys that end alike."""
    parent, _, last = dotted.rpartition(".")
    siblings = [key for key in known if parent and key.startswith(f"{parent}.")]
    if siblings:
        return nearest(dotted, siblings)
    sections = {key.partition(".")[0] for key in known}
    if isinstance(value, Mapping):
        return nearest(dotted, sections)
    ends: dict[str, list[str]] = {}
    for key in known:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    alike = get_close_matches(last, ends, n=5, cutoff=0.5)
    keys_alike = [key for end in alike for key in sorted(ends[end], key=lambda key: key.count("."))][:5]
    if not keys_alike:
        return nearest(dotted, sections)
    return f"Did you mean {keys_alike[0]!r}? The nearest: {', '.join(keys_alike)}"
