"""What every point of a blend is measured by: the new task, and the guards of what the base could do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError
from cusa.eval.config import EvalConfig
from cusa.eval.evidence import Evidence
from cusa.eval.tasks import zero_shot
from cusa.eval.tasks.metrics import named
from cusa.eval.tasks.registry import TASKS
from cusa.eval.texts.classes import names_some, of_labels
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.workflow.blend.grid import Choice
from cusa.workflow.evaluated.model import EvaluatedModel

RETRIEVAL = "cross-modal"
_HEADLINE = {RETRIEVAL: "rsum", zero_shot.NAME: "top@1"}
_FEW_CLASSES = "class_mean"


@dataclass(frozen=True)
class Measured:
    """One split that every point is evaluated on.

    Attributes:
        evidence: the split, and what answers are judged by.
        tasks: which.
        is_new: whether it is the new task; else a guard.
        left_out: why its labels are no task, in sentences; empty where they are one, or there are none.
    """

    evidence: Evidence
    tasks: tuple[str, ...]
    is_new: bool
    left_out: str = ""

    @property
    def split(self) -> Split:
        """The split."""
        return self.evidence.split

    @property
    def folder(self) -> str:
        """Name of a point's folder of results: part of a digest where two data sets share a name."""
        work = self.split.work.resolve()
        return f"{work.name}-{self.split.name}-{store.digest(str(work))[:6]}"


@dataclass(frozen=True)
class Measure:
    """One number that every point has.

    Attributes:
        data: name of the work folder.
        split: name of the split.
        task: of `cusa.eval.tasks.registry.TASKS`.
        metric: its number that stands for it.
        is_new: whether it is of the new task.
    """

    data: str
    split: str
    task: str
    metric: str
    is_new: bool

    @property
    def title(self) -> str:
        """For people: `top-1 accuracy, zero-shot, sop test`."""
        task = "" if self.task == RETRIEVAL else f", {self.task}"
        return f"{named(self.metric).title}{task}, {self.data} {self.split}"


def gather(
    model: EvaluatedModel, data: Path | None, split: str, guards: Sequence[str], choice: Choice | None
) -> list[Measured]:
    """Open the new task's split and those of the guards.

    Args:
        model: the run.
        data: work folder of the new task; the run's own when None.
        split: of the new task; the run's validation split, else `val`, when empty.
        guards: `WORK` or `WORK:SPLIT`.
        choice: of the point that is exported.

    Raises:
        ConfigError: if no work folder is given or known, a split comes twice, or a rule would choose on a test split.
        DataError: if a split is missing, the new task has no captions, or a guard neither captions nor labels.
    """
    work = data or _own_work(model)
    own = model.recipe.get("data", {})
    new = _new_task(Split(work, split or (own.get("val", "") if own.get("val", "") in splits(work) else "val")))
    measured = [new, *(_guard(Split(*_parts(guard)), model.config) for guard in guards)]
    seen: set[tuple[str, str]] = set()
    for one in measured:
        place = (str(one.split.work.resolve()), one.split.name)
        if place in seen:
            raise ConfigError(f"{one.split.folder} is named twice: as new task or guard once is enough.", guard=place)
        seen.add(place)
    if choice is not None and choice.alpha is None:
        deciding = measured if choice.most_lost is not None else measured[:1]
        for one in deciding:
            _refuse_test(one, own.get("test", "test") if model.was_trained_on(one.split.work) else "test")
    return measured


def texts_digest(measured: Measured, config: EvalConfig) -> str:
    """Return a digest of the texts that the tasks ask of their own.

    Raises:
        DataError: if the file of templates or names is broken.
    """
    texts = {}
    for task in measured.tasks:
        asks = TASKS[task].texts
        if asks is not None:
            texts[task] = list(asks(measured.evidence, config))
    return store.digest(texts)


def of_results(measured: Measured, result: Mapping[str, Any]) -> list[tuple[Measure, float, list[float] | None]]:
    """Return each number of a point on one split, with its interval.

    Raises:
        DataError: if a task could not be done.
    """
    rows = []
    for task in measured.tasks:
        summary = result["tasks"][task]
        if "unavailable" in summary:
            raise DataError(f"{task} on {measured.split.folder}: {summary['unavailable']}.", path=measured.split.folder)
        name = _HEADLINE[task] if _HEADLINE[task] in summary["metrics"] else _FEW_CLASSES
        data = measured.split.work.resolve().name
        measure = Measure(data, measured.split.name, task, name, measured.is_new)
        rows.append((measure, float(summary["metrics"][name]), summary["intervals"].get(name)))
    return rows


def _own_work(model: EvaluatedModel) -> Path:
    if model.run is None or not (model.run / "run.json").is_file():
        raise ConfigError(
            f"{model.name} is no run and knows no data: name the work folder of the new task with --data.", key="--data"
        )
    return Path(store.read_json(model.run / "run.json")["data"])


def _parts(guard: str) -> tuple[Path, str]:
    """Take `WORK:SPLIT` apart; a folder whose own name holds a colon is taken as it is."""
    path = Path(guard).expanduser()
    if path.is_dir() or ":" not in guard:
        return path, "test"
    work, _, split = guard.rpartition(":")
    return Path(work).expanduser(), split


def _new_task(split: Split) -> Measured:
    if not split.num_captions:
        raise DataError(
            f"{split.folder} has no captions: it is no retrieval task. Name another --data.", path=split.folder
        )
    return Measured(Evidence.open(split), (RETRIEVAL,), True)


def _guard(split: Split, config: EvalConfig) -> Measured:
    labels = split.samples["label"].to_pylist()
    if not any(labels) and not split.num_captions:
        raise DataError(
            f"{split.folder} guards nothing: it has neither captions, for retrieval, nor labels, for zero-shot "
            "classes. Name another --guard, or shard it with its labels (a table's column `label`, or a layout with "
            "classes).",
            path=split.folder,
        )
    tasks, left_out = [RETRIEVAL] if split.num_captions else [], ""
    if any(labels):
        try:
            of_labels(labels, config.class_names)
            tasks.append(zero_shot.NAME)
        except DataError as error:
            if not tasks or (config.class_names and names_some(labels, config.class_names)):
                raise DataError(f"The guard {split.folder}: {error}", path=split.folder) from error
            left_out = f"The guard {split.work.resolve().name} {split.name} is measured by retrieval alone. {error}"
    return Measured(Evidence.open(split), tuple(tasks), False, left_out)


def _refuse_test(measured: Measured, test: str) -> None:
    if measured.split.name in (test, "test"):
        way = "--split VAL" if measured.is_new else f"--guard {measured.split.work}:SPLIT"
        raise ConfigError(
            f"--choose would choose by the test split {measured.split.folder}, and what is reported on it afterwards "
            f"would be too good. Name another split with {way}, or choose a point yourself: --choose 0.5.",
            split=measured.split.name,
        )
