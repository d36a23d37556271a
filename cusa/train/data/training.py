"""What is trained on: a split with its teachers, or several of them with their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.samples import Split


@dataclass(frozen=True)
class TrainingSplit:
    """A split to train on, its teachers, and the tables that stand in place of its images or captions."""

    split: Split
    teachers: Mapping[str, str] = field(default_factory=dict)
    """`image` or `text` -> name of a teacher; missing or empty = the split's only one. Not read where the loss uses
    none."""
    features: Mapping[str, str] = field(default_factory=dict)
    """`image` or `text` -> name of the table whose rows the student takes in place of images or captions."""
    calibration: BatchCalibration | None = None
    """Of a batch's pairs, by these teachers; read where `LossConfig.needs_calibration`."""

    @property
    def sets(self) -> tuple["TrainingSplit", ...]:
        """This one."""
        return (self,)

    @property
    def names(self) -> tuple[str, ...]:
        """The split's name."""
        return (self.split.name,)

    @property
    def num_captions(self) -> int:
        """Pairs."""
        return self.split.num_captions

    @property
    def digests(self) -> dict[str, str]:
        """The inputs that are splits: name -> digest."""
        return digests(self)

    @property
    def identity(self) -> dict[str, object]:
        """Settings that a checkpoint belongs to, beside those of the recipe's sections."""
        return {}


@dataclass(frozen=True)
class TrainingMixture:
    """Several splits to train on at once."""

    sets: tuple[TrainingSplit, ...]
    """Two or more."""
    names: tuple[str, ...]
    """Of the sets, each another one; messages and keys name them so."""
    weights: tuple[float | None, ...]
    """Of each set; its share of the draws is its weight over the sum. All None = each set's number of pairs."""
    mix: Literal["pairs", "batches"] = "pairs"
    """Whether the pairs of each batch come from all sets, or from one."""
    calibration: BatchCalibration | None = None
    """As for one split."""

    @property
    def num_captions(self) -> int:
        """Pairs of all sets."""
        return sum(one.split.num_captions for one in self.sets)

    @property
    def digests(self) -> dict[str, str]:
        """The inputs that are splits: name -> digest."""
        return digests(self)

    @property
    def identity(self) -> dict[str, object]:
        """Settings that a checkpoint belongs to, beside those of the recipe's sections."""
        return {"data.train": shares(self.weights), "data.mix": self.mix}


Training = TrainingSplit | TrainingMixture


def shares(weights: Sequence[float | None]) -> list[str | None]:
    """Return each set's share of the draws as a fraction in words, such as 3/4; None where the pairs decide.

    Weights of one ratio, 3 to 1 and 6 to 2, have equal shares, and train alike.

    Args:
        weights: of each set, as decimals: 0.1 is a tenth.
    """
    parts = [None if weight is None else Fraction(str(weight)) for weight in weights]
    total = sum(part for part in parts if part is not None)
    return [None if part is None else str(part / total) for part in parts]


def of_set(what: str, number: int, sets: int) -> str:
    """Return the name of an input of one of several data sets; of the only one, its plain name.

    Args:
        what: the input, in words.
        number: of the set, from 0.
        sets: how many there are.
    """
    return what if sets == 1 else f"{what} of data set {number + 1}"


def digests(training: Training) -> dict[str, str]:
    """Return the inputs of a training that are splits: name -> digest of their content."""
    splits = [one.split for one in training.sets]
    return {of_set("the training split", number, len(splits)): split.digest for number, split in enumerate(splits)}


def refuse_other_encoders(training: Training, modality: str, names: Sequence[str], *, why: str) -> None:
    """Refuse tables of several sets that different encoders made: their rows do not compare.

    Args:
        training: the sets.
        modality: of the tables.
        names: of the table of each set.
        why: what compares them, for the message.

    Raises:
        ConfigError: with both sets, both tables, and what they differ in.
    """
    first = training.sets[0].split
    for place, one in enumerate(training.sets[1:], 1):
        difference = tables.encoder_difference((first, names[0]), (one.split, names[place]))
        if difference:
            raise ConfigError(
                f"The {modality} tables {names[0]} of {training.names[0]} and {names[place]} of "
                f"{training.names[place]} were made by different encoders ({difference}), and {why} compares rows of "
                "both. Extract one encoder's rows for both sets (`cusa extract-teachers`) and name its tables in "
                "data.train. Only teachers may differ by set, where each batch is of one set (data.mix=batches).",
                key="data.train",
            )
