"""What a calibration of a batch's pairs says of this split: probabilities, expected false negatives, a temperature.

Legend: B pairs in the batch, R of its rows that are looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cusa.errors import ConfigError
from cusa.manifests import tables
from cusa.manifests.batch_calibration import BatchCalibration
from cusa.manifests.samples import Split
from cusa.train.config import LossConfig, TemperatureConfig
from cusa.train.data.mixture.joined import AnyTable, JoinedTable
from cusa.train.losses.pair_probability import PairProbability, Slope

_FOR_MEANS = 1 << 16  # rows of a table, at even distances, that its mean is taken of
_ELEMENTS = 1 << 21  # cosines that an expectation is taken of
_ROWS = 4096  # of batches, that it is taken over, at least where that many fit


@dataclass(frozen=True)
class Calibrated:
    """A calibration, opened for a split, a batch size and a loss."""

    probability: PairProbability
    expected: float
    """False negatives that a row of a batch has, in the mean."""
    temperatures: Mapping[str, float]
    """Modality -> the teacher temperature by the audit; empty where the recipe sets it."""
    digest: str
    """Of the calibration."""
    sentence: str
    """For a person, before the first step."""

    def solved(self, loss: LossConfig) -> LossConfig:
        """Return the loss with the temperatures that were solved for."""
        fixed = {
            f"teacher_{modality}_temperature": TemperatureConfig(initial=tau, minimum=tau, maximum=tau, learned=False)
            for modality, tau in self.temperatures.items()
        }
        return loss.model_copy(update=fixed)

    def metrics(self) -> dict[str, float]:
        """Return the row of metrics before the first step."""
        taus = {f"teacher_temperature.{modality}": tau for modality, tau in self.temperatures.items()}
        return {"expected_false_negatives": self.expected, **taus}


def open_calibrated(
    loss: LossConfig,
    calibration: BatchCalibration | None,
    *,
    split: Split,
    rows: Mapping[str, AnyTable],
    owner: np.ndarray,
    batch: int,
) -> Calibrated:
    """Open a calibration for training.

    Args:
        loss: what it is used for.
        calibration: fitted on the teachers that are read; None is refused.
        split: to train on; of several the first.
        rows: modality -> the teacher's rows.
        owner: (captions,) the image row of each caption row.
        batch: B, the pairs that see each other in a step.

    Raises:
        ConfigError: if there is no calibration.
        StaleError: if it was fitted on other teachers.
    """
    if calibration is None:
        raise ConfigError(
            f"{_reader(loss)}, which needs a calibration, and there is none for these teachers. Fit one with `cusa "
            "calibrate --in-batch`, and name it: loss.calibration=PATH.",
            key="loss.calibration",
        )
    calibration.refuse_others(
        {modality: tables.provenance(split, table.teacher) for modality, table in rows.items()},
        loss.calibration or "that is shipped",
    )
    probability = pair_probability(calibration, rows)
    drawn = _draw(probability, rows, owner, batch)
    expected = float(np.mean([draw.expected for draw in drawn]))
    temperatures: dict[str, float] = {}
    if loss.teacher_temperature == "audit" and loss.reads_teacher_temperature:
        temperatures = _temperatures(drawn, expected / (1 + expected), apart=loss.teacher_temperatures == "separate")
    sentence = f"A row of a batch of {batch:,} pairs has {expected:.2g} expected false negatives by the calibration."
    for modality, tau in temperatures.items():
        whose = f"the {modality} teacher's" if len(temperatures) > 1 else "the teachers'"
        sentence += f" That makes {whose} temperature {tau:.4g} (loss.teacher_temperature=audit)."
    return Calibrated(probability, expected, temperatures, calibration.digest, sentence)


def pair_probability(calibration: BatchCalibration, rows: Mapping[str, AnyTable]) -> PairProbability:
    """Return a calibration with the means of this split's tables."""
    slopes = {name: Slope(calibration.cosines[name], calibration.levels[name]) for name in calibration.teachers}
    means = {modality: _mean(rows[modality]) for modality in slopes}
    return PairProbability(
        intercept=calibration.intercept,
        image=slopes.get("image"),
        text=slopes.get("text"),
        image_mean=means.get("image"),
        text_mean=means.get("text"),
    )


def _reader(loss: LossConfig) -> str:
    if loss.soft_labels == "calibrated":
        return "loss.soft_labels is 'calibrated'"
    if loss.false_negatives == "debiased":
        return "loss.false_negatives is 'debiased'"
    return "loss.teacher_temperature is 'audit'"


def _unit(rows: np.ndarray) -> Tensor:
    return normalize(torch.from_numpy(rows), dim=1)


def _mean(table: AnyTable) -> Tensor:
    """Return the mean of a table's unit rows, or of as many at even distances; of several, by their shares."""
    if isinstance(table, JoinedTable):
        means = [share * _mean(part) for part, share in zip(table.parts, table.shares, strict=True)]
        return torch.stack(means).sum(0)
    places = np.unique(np.linspace(0, len(table) - 1, min(len(table), _FOR_MEANS)).astype(np.int64))
    total = torch.zeros(table.width, dtype=torch.float64)
    for block in np.array_split(places, max(1, len(places) // 4096)):
        total += _unit(table[block]).sum(0, dtype=torch.float64)
    return (total / max(len(places), 1)).float()


@dataclass(frozen=True)
class _Draw:
    """Some rows of one batch."""

    expected: float
    cosines: Mapping[str, Tensor]
    """Modality -> (R, B)."""
    own_RB: Tensor
    """Booleans: pairs of the same image."""


def _draw(probability: PairProbability, rows: Mapping[str, AnyTable], owner: np.ndarray, batch: int) -> list[_Draw]:
    """Draw batches as an epoch does: without replacement."""
    size = min(batch, len(owner))
    odds = _odds(rows, owner)
    few = min(size, max(32, _ELEMENTS // size))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(max(1, min(_ROWS // few, _ELEMENTS // (few * size)))):
        captions = np.sort(rng.choice(len(owner), size, replace=False, p=odds))
        images = np.asarray(owner[captions]).astype(np.int64)
        order = torch.from_numpy(rng.permutation(size))
        ids = torch.from_numpy(images)[order]
        unit = {name: _unit(table[images if name == "image" else captions])[order] for name, table in rows.items()}
        cosines = {name: own[:few] @ own.T for name, own in unit.items()}
        pairs = probability.of(unit.get("image"), unit.get("text"), ids)
        logit_RB = pairs.logit(cosines.get("image"), cosines.get("text"), slice(0, few), slice(0, size))
        own_RB = ids[:few, None] == ids[None, :]
        expected = logit_RB.sigmoid().masked_fill(own_RB, 0).sum(dtype=torch.float64) / few
        draws.append(_Draw(float(expected), cosines, own_RB))
    return draws


def _odds(rows: Mapping[str, AnyTable], owner: np.ndarray) -> np.ndarray | None:
    """Return how likely each pair of several sets is drawn, by the sets' shares; None for one set: all alike."""
    table = rows["image"] if "image" in rows else rows["text"]
    if not isinstance(table, JoinedTable):
        return None
    # A table of images has a row an image; a set's pairs are those whose images are among its rows.
    stops = np.cumsum([len(part) for part in table.parts])
    place = np.searchsorted(stops, owner if "image" in rows else np.arange(len(owner)), side="right")
    odds: np.ndarray = (np.array(table.shares) / np.bincount(place, minlength=len(stops)))[place]
    odds /= odds.sum()
    return odds


def _temperatures(draws: list[_Draw], wanted: float, *, apart: bool) -> dict[str, float]:
    """Return the temperatures at which soft labels give other images' pairs as much mass as is wanted, in the mean."""
    groups = [("image",), ("text",)] if apart else [("image", "text")]
    solved = {}
    for group in groups:
        low, high = -9.0, 9.0  # of the temperature's logarithm; the mass rises with it
        for _ in range(50):
            middle = (low + high) / 2
            if _mass_off(draws, group, float(np.exp(middle))) < wanted:
                low = middle
            else:
                high = middle
        solved[group[0]] = float(f"{np.exp((low + high) / 2):.6g}")
    return solved


def _mass_off(draws: list[_Draw], modalities: tuple[str, ...], tau: float) -> float:
    masses = []
    for draw in draws:
        for modality in modalities:
            label_RB = (draw.cosines[modality] / tau).softmax(1)
            masses.append(float(label_RB.masked_fill(draw.own_RB, 0).sum(1).mean()))
    return float(np.mean(masses))
