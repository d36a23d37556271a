"""What a recipe trains on, opened: one work folder, or several data sets with their own teachers and validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.data_config import DataConfig
from cusa.errors import ConfigError, CusaError, DataError
from cusa.manifests import tables
from cusa.manifests.judgements import own_pairs, pair_judgements
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.models import features
from cusa.models.features import FeatureTable
from cusa.recipe import Recipe
from cusa.train.data.training import of_set

START = "what {} names"
"""Name of the input that is what a key of the student names."""


@dataclass(frozen=True)
class SetFolder:
    """Where one data set of a training lies, and by which words its tables are named."""

    key: str
    """Of the recipe, for messages; empty where there is only one."""
    name: str
    work: Path
    split: str
    val: str | None
    """Split it is validated on, empty for none; None = the recipe's, where the set has it."""
    weight: float | None
    teachers: Mapping[str, str]
    """Modality -> the user's word for the teacher; empty for the only one."""
    features: Mapping[str, str]
    """Modality -> the user's word for the table that heads read, likewise."""


def main_folder(data: DataConfig, given: Path | None) -> Path:
    """Return the work folder that a run belongs to: the given one, or the first set's of a mixture that names all.

    Args:
        data: the recipe's.
        given: the folder of `--data`.

    Raises:
        ConfigError: if there is none, or one is given that nothing is read from.
    """
    if given is not None:
        if not data.uses_own_folder:
            folders = ", ".join(one.data for one in data.sets)
            raise ConfigError(
                f"--data is {given}, and every data set of data.train names its own folder ({folders}). Leave --data "
                "out, or leave `data` out of the set that it is for.",
                key="data",
            )
        return given
    if data.uses_own_folder:
        raise ConfigError("Give the work folder with --data.", key="data")
    return Path(data.sets[0].data).expanduser()


def folders(recipe: Recipe, work: Path) -> tuple[SetFolder, ...]:
    """Return the data sets of a training in the recipe's order; of the plain form the one.

    Args:
        recipe: the recipe.
        work: the folder of the sets that name none.

    Raises:
        ConfigError: if two sets go by one name.
    """
    data, heads = recipe.data, recipe.student.heads
    teachers = {"image": recipe.teachers.image, "text": recipe.teachers.text}
    read = {"image": heads.image_table, "text": heads.text_table}
    if not data.sets:
        assert isinstance(data.train, str)
        return (SetFolder("", data.train, work, data.train, data.val, None, teachers, read),)
    opened: list[SetFolder] = []
    for number, one in enumerate(data.sets, 1):
        place = Path(one.data).expanduser() if one.data else work
        key, name = f"data.train.{number}", one.called or work.resolve().name
        if any(name == other.name for other in opened):
            raise ConfigError(f"{key} is called {name!r}, as another set is. Give it another name.", key=f"{key}.name")
        opened.append(
            SetFolder(
                key,
                name,
                place,
                one.split,
                one.val,
                one.weight,
                {modality: getattr(one.teachers, modality) or word for modality, word in teachers.items()},
                {modality: getattr(one.tables, modality) or word for modality, word in read.items()},
            )
        )
    return tuple(opened)


def unique_folders(recipe: Recipe, work: Path) -> list[Path]:
    """Return the work folders that are trained on, each once."""
    return list(dict.fromkeys(one.work for one in folders(recipe, work)))


@dataclass(frozen=True)
class TrainingSet:
    """One opened data set of a training."""

    folder: SetFolder
    split: Split
    val: Split | None
    teachers: Mapping[str, str]
    """Modality -> table, empty where the loss uses none."""
    features: Mapping[str, FeatureTable]
    """Modality -> what heads learn on; empty for other students."""

    @property
    def name(self) -> str:
        """What messages, keys and metrics call it."""
        return self.folder.name


def open_sets(recipe: Recipe, work: Path) -> tuple[TrainingSet, ...]:
    """Open the data sets of a training and find their tables.

    Raises:
        ConfigError: if two sets are the same data, or several tables fit and none is named.
        DataError: if a folder, a split or a table is missing; of several sets with the key of the one.
    """
    opened: list[TrainingSet] = []
    for place in folders(recipe, work):
        try:
            one = _open(recipe, place)
        except DataError as error:
            if not place.key:
                raise
            raise DataError(f"{place.key} ({place.name}): {error}", path=place.work) from error
        except ConfigError as error:
            if not place.key:
                raise
            raise ConfigError(f"{place.key} ({place.name}): {error}", key=place.key) from error
        for other in opened:
            if other.split.digest == one.split.digest:
                raise ConfigError(
                    f"{place.key} is {one.split.folder}, and {other.folder.key} is {other.split.folder}: one data set, "
                    "listed twice (their content is equal). Give it once, with the sum of the weights.",
                    key=place.key,
                )
        opened.append(one)
    if not any(one.val is not None for one in opened):
        raise ConfigError(
            f"No data set of data.train is validated: none has a split {recipe.data.val!r}, or `val` is ''. Name one: "
            "data.val=SPLIT, or `val` of a set.",
            key="data.val",
        )
    return tuple(opened)


def _open(recipe: Recipe, place: SetFolder) -> TrainingSet:
    split = Split(place.work, place.split)
    chosen = place.val
    if chosen is None:
        chosen = recipe.data.val if recipe.data.val in splits(place.work) else ""
    val = Split(place.work, chosen) if chosen else None
    teachers = {"image": "", "text": ""}
    if recipe.loss.needs_teachers:
        teachers = {kind: tables.choose_teacher(split, kind, word) for kind, word in place.teachers.items()}
    read: dict[str, FeatureTable] = {}
    if recipe.student.kind == "heads":
        heads = recipe.student.heads
        encoders = {"image": heads.image_encoder, "text": heads.text_encoder}
        read = {
            kind: features.describe(split, kind, name=word, encoder=encoders[kind])
            for kind, word in place.features.items()
        }
    return TrainingSet(place, split, val, teachers, read)


def inputs(recipe: Recipe, sets: Sequence[TrainingSet]) -> dict[str, str]:
    """Return what a training's weights depend on beside the recipe: name of an input -> digest of its content."""
    digests: dict[str, str] = {}
    for number, one in enumerate(sets):
        own = {"the training split": one.split.digest}
        if one.val is not None:
            own["the validation split"] = one.val.digest
        if recipe.loss.needs_teachers:
            for modality, table in one.teachers.items():
                own[f"the {modality} teacher"] = tables.teacher_digest(one.split, table)
        if recipe.loss.false_negatives == "positive":
            own["the verdicts"] = pair_judgements.read(one.split).digest
        if recipe.loss.pair_weights == "audit":
            own["the audit of the pairs"] = own_pairs.weights_digest(one.split)
        for modality, read in one.features.items():
            for split in filter(None, (one.split, one.val)):
                own[f"the {modality} features of {split.name}"] = features.digest(split, modality, read)
        digests |= {of_set(what, number, len(sets)): digest for what, digest in own.items()}
    return digests | starts(recipe)


def is_start(name: str) -> bool:
    """Tell whether an input of a training is what its student starts from."""
    return name.startswith(START.partition("{}")[0])


def starts(recipe: Recipe) -> dict[str, str]:
    """Return what a student starts from, where it lies on this machine: name of the input -> digest of its content.

    Of a run its model counts, of a folder every file, preprocessing and tokenizer too; a hub name has its revision.
    """
    towers = recipe.student.towers
    names = {
        "student.name": recipe.student.name,
        "student.towers.image.name": towers.image.name,
        "student.towers.text.name": towers.text.name,
    }
    digests = {}
    for key, name in names.items():
        place = Path(name.partition("@")[0]).expanduser() if name and name != "scratch" else None
        if place is not None and (place / "model" / "student.json").is_file():
            place = place / "model"
        if place is not None and place.is_dir():
            digests[START.format(key)] = store.sha256_folder(place)
        elif place is not None and place.is_file():
            digests[START.format(key)] = store.sha256_file(place)
    return digests


def sentence(recipe: Recipe, work: Path) -> str:
    """Return what an epoch of a mixture is, for a person; empty for one split, and where a folder is not there yet.

    Raises:
        ConfigError: if the sets do not go together.
    """
    if not recipe.data.sets:
        return ""
    from cusa.train.data.mixture.plan import describe, plan_draws
    from cusa.train.data.training import TrainingMixture, TrainingSplit

    places = folders(recipe, work)
    try:
        opened = [Split(one.work, one.split) for one in places]
    except DataError:
        return ""
    mixture = TrainingMixture(
        tuple(TrainingSplit(split) for split in opened),
        tuple(one.name for one in places),
        tuple(one.weight for one in places),
        recipe.data.mix,
    )
    return describe(plan_draws(recipe.train, mixture), mixture)


def described(sets: Sequence[TrainingSet]) -> list[dict[str, Any]]:
    """Return the sets of a mixture for `run.json`; nothing for one split in the plain form."""
    return [
        {
            "name": one.name,
            "data": str(one.folder.work.resolve()),
            "split": one.split.name,
            "val": one.val.name if one.val is not None else "",
            "weight": one.folder.weight,
            "pairs": one.split.num_captions,
            "digest": one.split.digest,
            "teachers": dict(one.teachers),
        }
        for one in sets
        if one.folder.key
    ]


def look(recipe: Recipe, work: Path | None) -> list[tuple[str, str, str]]:
    """Return what there is of each data set of a recipe: its name, in words what is there, a hint for what is missing.

    Args:
        recipe: the recipe.
        work: the folder of `--data`, for the sets that name none.
    """
    rows = []
    total = 0.0
    places = folders(recipe, main_folder(recipe.data, work))
    weights: list[float] = []
    for place in places:
        try:
            one = _open(recipe, place)
        except CusaError as error:
            rows.append((f"data set {place.name}", "not ready", str(error)))
            continue
        weights.append(place.weight or one.split.num_captions)
        total += weights[-1]
        names = [*filter(None, one.teachers.values()), *(table.table for table in one.features.values())]
        val = f"{one.val.name} of {one.val.num_captions:,} pairs" if one.val is not None else "no validation"
        pairs, read = f"{one.split.name} of {one.split.num_captions:,} pairs", ", ".join(dict.fromkeys(names)) or "none"
        rows.append((f"data set {place.name}", f"{pairs}, {val}; tables: {read}", ""))
    if len(weights) == len(places) > 1:
        shares = ", ".join(f"{place.name} {weight / total:.1%}" for place, weight in zip(places, weights, strict=True))
        rows.append(("mixture", shares, ""))
    return rows
