"""A student between two others: their weights interpolated, one point at a time.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, arXiv:2109.01903, equation 2:
the weights of a point are (1 - alpha) times those of the model before fine-tuning plus alpha times those after it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cusa.errors import DataError
from cusa.models.features import FeatureTable
from cusa.models.students import lora
from cusa.models.students.base import Student

RULE = 1
"""Raised when a point's weights follow from its parents in another way."""

_DO_NOT_COUNT = frozenset({"name", "format", "tasks", "temperatures", "blend", "modes", "features", "hinge"})
"""Keys of a card that decide neither the shape of the weights nor what the student reads."""
_DO_NOT_COUNT_ANYWHERE = frozenset({"name", "licence", "revision", "parameters", "dropout", "sha256"})
_COUNTERS = ("num_batches_tracked",)
"""Integers that count what happened in training; no output depends on them."""


class Blend:
    """The points between two students.

    Weights and floating-point buffers are interpolated in float32 and stored in the type that they have in the second
    student; equal ones stay as they are, to the bit, and so do both ends. CLIP's own temperature (`logit_scale`) is a
    logarithm in the weights, so that its interpolation is the geometric mean of both; no ranking depends on it.
    Integers (positions) must be equal and stay; counters of training batches are the second student's. Adapters of the
    base are merged into its weights.

    Besides the two students in memory there is one set of weights more, however many points are made.

    Args:
        base: before; in evaluation mode.
        run: after, without adapters, as it is saved; it becomes each point in turn. Its card, tokenizer and
            preprocessing are the points' own.

    Raises:
        DataError: if the two are of different kinds, read differently, or differ in a key or shape of their weights;
            the message names the first difference.
    """

    def __init__(self, base: Student, run: Student) -> None:
        refuse_others(base, run)
        self._base = {name: value.detach() for name, value in lora.merged_state(base).items()}
        self._run = {name: value.detach().clone() for name, value in run.state_dict().items()}
        self._student = run
        self._alpha = 1.0

    def at(self, alpha: float) -> Student:
        """Return the student of a point; it is the one of the last call, changed.

        Args:
            alpha: 0 for the first student's weights, 1 for the second's.
        """
        if alpha != self._alpha:
            with torch.no_grad():
                for name, value in self._student.state_dict().items():
                    value.copy_(between(self._base[name], self._run[name], alpha))
            self._alpha = alpha
        return self._student


def between(base: Tensor, run: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) base + alpha run; integers are the run's.

    Args:
        base: of any shape.
        run: of the same.
        alpha: 0 to 1; both ends are exact.
    """
    if not run.is_floating_point():
        return run
    wide = torch.promote_types(run.dtype, torch.float32)
    start, end = base.to(run.device, wide), run.to(wide)
    return torch.lerp(start, end, alpha).to(run.dtype)


def refuse_others(base: Student, run: Student) -> None:
    """Refuse two students between which there is nothing.

    Raises:
        DataError: naming the first difference: kind, a key of the card, a word of the vocabulary, a key or shape of the
            weights, or an integer.
    """
    if type(base) is not type(run):
        raise _difference("kind", _kind(base), _kind(run))
    one, two = (dict(_flat(_counted(student))) for student in (base, run))
    for key in (*two, *(key for key in one if key not in two)):
        if one.get(key) != two.get(key):
            raise _difference(f"{key} of the card", one.get(key), two.get(key))
    for modality, table in run.features.items():
        _refuse_other_rows(modality, base.features.get(modality), table)
    _refuse_other_words(base, run)
    _refuse_other_weights(lora.merged_state(base), lora.merged_state(run))


def _kind(student: Student) -> str:
    return str((getattr(student, "card", None) or {}).get("kind", type(student).__name__))


def _counted(student: Student) -> dict[str, Any]:
    card = getattr(student, "card", None) or {}
    return {key: value for key, value in card.items() if key not in _DO_NOT_COUNT}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every leaf of a card with its dotted name."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if key not in _DO_NOT_COUNT_ANYWHERE:
                yield from _flat(one, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _refuse_other_rows(modality: str, base: FeatureTable | None, run: FeatureTable) -> None:
    if base is None or not run.has_rows_of(base):
        raise _difference(
            f"encoder of the {modality} rows",
            "none" if base is None else f"{base.table} ({base.provenance.get('weights_sha256', '')[:12]})",
            f"{run.table} ({run.provenance.get('weights_sha256', '')[:12]})",
        )


def _refuse_other_words(base: Student, run: Student) -> None:
    one, two = (_vocabulary(student) for student in (base, run))
    for word in (*two, *(word for word in one if word not in two)):
        if one.get(word) != two.get(word):
            raise _difference(f"id of the token {word!r}", one.get(word), two.get(word))


def _vocabulary(student: Student) -> dict[str, int]:
    tokenizer: Any = getattr(student, "tokenizer", None) or getattr(student, "_tokenizer", None)
    words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return dict(sorted(words.items(), key=lambda item: item[1]))


def _refuse_other_weights(base: Mapping[str, Tensor], run: Mapping[str, Tensor]) -> None:
    for name in (*run, *(name for name in base if name not in run)):
        one, two = base.get(name), run.get(name)
        if one is None or two is None:
            raise _difference(f"weight {name!r}", *("there" if value is not None else None for value in (one, two)))
        if one.shape != two.shape:
            raise _difference(f"shape of the weight {name!r}", tuple(one.shape), tuple(two.shape))
        if one.is_floating_point() != two.is_floating_point():
            raise _difference(f"type of the weight {name!r}", one.dtype, two.dtype)
        if not two.is_floating_point() and not name.endswith(_COUNTERS) and not torch.equal(one.cpu(), two.cpu()):
            raise _difference(f"integers of {name!r}", "others", "others")


def _difference(what: str, base: Any, run: Any) -> DataError:
    ends = "" if base == run else f" ({_said(base)} in the base, {_said(run)} in the run)"
    return DataError(
        f"There is nothing between these two models: they differ in the {what}{ends}. A base has the run's "
        "architecture, sizes, tokenizer and preprocessing: the model that it was fine-tuned from; `start` "
        "makes it from the run's recipe, with the heads that were new.",
        difference=what,
    )


def _said(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.80}"
