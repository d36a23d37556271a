"""The rows that a training reads: of one split as they are, of several joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.manifests import tables
from cusa.train.config import LossConfig
from cusa.train.data.gather import TeacherRows
from cusa.train.data.mixture.joined import AnyPairs, AnyTable, join_pairs, join_table
from cusa.train.data.mixture.plan import refuse_calibration
from cusa.train.data.pairs import Pairs
from cusa.train.data.training import Training, TrainingMixture, of_set, refuse_other_encoders


@dataclass(frozen=True)
class OpenedRows:
    """Opened rows of all sets."""

    pairs: AnyPairs
    teachers: Mapping[str, AnyTable]
    """`image` and `text` -> rows; empty where the loss uses none."""
    features: Mapping[str, AnyTable]
    """`image` or `text` -> rows in place of images or captions."""
    tables: Sequence[TeacherRows]
    """Every opened table, once."""
    digests: Mapping[str, str]
    """Name of an input -> digest."""

    @property
    def notes(self) -> list[str]:
        """Full sentences a person should read."""
        return [*self.pairs.notes, *(note for table in self.tables for note in table.notes)]


def choose_tables(loss: LossConfig, training: Training) -> list[dict[str, str]]:
    """Return for each set the tables of its teachers by modality, none where the loss uses none.

    Raises:
        ConfigError: if the sets' tables were made by different encoders and are compared.
        DataError: if a set lacks a table.
    """
    chosen: list[dict[str, str]] = [{} for _ in training.sets]
    if loss.needs_teachers:
        chosen = [
            {name: tables.choose_teacher(one.split, name, one.teachers.get(name, "")) for name in ("image", "text")}
            for one in training.sets
        ]
    if isinstance(training, TrainingMixture):
        refuse_calibration(loss, training)
        if training.mix == "pairs":
            for modality in chosen[0]:
                refuse_other_encoders(
                    training, modality, [own[modality] for own in chosen], why="the loss of a batch of all sets"
                )
        for modality in training.sets[0].features:
            refuse_other_encoders(
                training, modality, [one.features[modality] for one in training.sets], why="the student that reads them"
            )
    return chosen


def open_rows(
    training: Training, chosen: Sequence[Mapping[str, str]], shares: Sequence[float], *, out: Path
) -> OpenedRows:
    """Open the rows of all sets.

    Args:
        training: the sets.
        chosen: from `choose_tables`.
        shares: of the draws that each set has.
        out: the run's folder, for caches where a work folder cannot be written.

    Raises:
        DataError, StaleError: if a table is missing, broken, or of another state of its split.
    """
    pairs: list[Pairs] = []
    teachers: list[dict[str, TeacherRows]] = []
    features: list[dict[str, TeacherRows]] = []
    every: list[TeacherRows] = []
    for number, (one, own) in enumerate(zip(training.sets, chosen, strict=True)):
        # A folder a set: tables of one name of two sets would replace each other.
        cache = out / "cache" / (str(number + 1) if len(training.sets) > 1 else "")
        pairs.append(Pairs(one.split, fallback=cache))
        names = dict.fromkeys([*own.values(), *one.features.values()])
        opened = {name: TeacherRows(one.split, name, fallback=cache) for name in names}
        teachers.append({modality: opened[name] for modality, name in own.items()})
        features.append({modality: opened[name] for modality, name in one.features.items()})
        every += opened.values()
    digests: dict[str, str] = {}
    for number, (taught, read) in enumerate(zip(teachers, features, strict=True)):
        named = {f"the {modality} teacher": table for modality, table in taught.items()}
        # What a frozen tower gives follows from its weights and the split, which the checkpoint knows anyway.
        named |= {
            f"the {modality} features": table
            for modality, table in read.items()
            if not table.teacher.startswith(tables.TOWER)
        }
        digests |= {of_set(what, number, len(training.sets)): table.digest for what, table in named.items()}
    return OpenedRows(
        join_pairs(pairs, training.names),
        {modality: join_table([own[modality] for own in teachers], modality, shares) for modality in teachers[0]},
        {modality: join_table([own[modality] for own in features], modality, shares) for modality in features[0]},
        every,
        digests,
    )
