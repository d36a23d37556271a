"""The plan of a recipe: which stages are up to date, and bytes, time, disk and licence of those that are due."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from cusa.errors import CusaError
from cusa.manifests import ledger, tables
from cusa.manifests.events import SILENT
from cusa.manifests.origin import teacher_name
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import NotCurrentError, asking
from cusa.workflow import project as projects
from cusa.workflow import stages
from cusa.workflow.mixture import training_data
from cusa.workflow.project import Project
from cusa.workflow.stages import Stage

_CAPTIONS = 5
"""Captions an image, where nobody wrote their number down."""


@dataclass(frozen=True)
class Planned:
    """One stage, and what it would take.

    Attributes:
        stage: the command's name.
        what: on what.
        state: `up to date`, `due`, or `blocked`: it cannot be done as things are.
        why: why it is due or blocked; empty if it is up to date.
        bytes: to fetch; None if it fetches nothing or nobody knows.
        disk: bytes it will write, about; None if nobody knows.
        seconds: about, of one core of the machine of `source`; None where no rate was measured.
        source: where the seconds come from: the ledger of the last time, or the packaged rates.
        licence: terms to accept before; empty if there are none.
    """

    stage: str
    what: str
    state: Literal["up to date", "due", "blocked"]
    why: str
    bytes: int | None = None
    disk: int | None = None
    seconds: float | None = None
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Plan:
    """Every stage of a recipe."""

    recipe: str
    out: Path
    stages: list[Planned]
    notes: tuple[str, ...]
    """Full sentences: what is left out, what a person has to bring, whose rates these are."""

    @property
    def disk(self) -> int:
        """Bytes that the stages which are not up to date will write, as far as they are known."""
        return sum(stage.disk or 0 for stage in self.stages)

    @property
    def due(self) -> list[Planned]:
        """The stages that are not up to date."""
        return [stage for stage in self.stages if stage.state != "up to date"]


def plan(
    recipe: str,
    *,
    out: Path,
    work: Path | None = None,
    name: str = "",
    settings: Sequence[str] = (),
    smoke: bool = False,
) -> Plan:
    """Ask every stage of a recipe whether it is up to date, and estimate what the others take. Writes nothing.

    Args:
        recipe: name or TOML file.
        out: folder of the project; see `cusa.workflow.stages`.
        work: a work folder that is there already.
        name: the run's folder in `out/runs`; the recipe's name when empty.
        settings: overrides.
        smoke: plan the smoke instead.

    Raises:
        ConfigError: for an unknown recipe or key.
        DataError: if the recipe names no data set and no work folder is given.
    """
    project = projects.open_project(recipe, out, work=work, name=name, settings=settings, smoke=smoke)
    rates = read_rates()
    planned: list[Planned] = []
    waiting: dict[str, str] = {}
    for stage in stages.of(project):
        state, why = _ask(stage, waiting)
        if state != "up to date":
            waiting.setdefault(stage.name, why)
        planned.append(Planned(stage.name, stage.what, state, why, **_costs(project, stage, state, rates)))
    return Plan(project.recipe.name, project.out, planned, tuple(_notes(project, rates, smoke)))


def _ask(stage: Stage, waiting: Mapping[str, str]) -> tuple[Literal["up to date", "due", "blocked"], str]:
    """Ask a stage whether it is up to date; one that builds on another that is due waits for it."""
    before = next((name for name in stage.needs if name in waiting), None)
    if before is not None:
        return "due", f"after {before}"
    try:
        with asking():
            stage.do(SILENT)
    except NotCurrentError as error:
        return "due", error.why
    except CusaError as error:
        return "blocked", str(error)
    return "up to date", ""


def read_rates() -> dict[str, Any]:
    """Return the packaged rates: `machine`, `date`, and by stage what it does a second."""
    return tomllib.loads((resources.files("cusa.manifests") / "rates.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class _Size:
    """How much a project holds, in images: counted where the work folder is there, else what the manifest says."""

    train: int
    test: int
    total: int
    captions: int
    gigabytes: float | None

    @property
    def test_captions(self) -> int:
        """Captions of the test split, at as many an image as training has."""
        return self.test * self.captions // max(self.train, 1)


def _size(project: Project) -> _Size | None:
    data = project.recipe.data
    sets = project.sets
    if all(one.work.is_dir() and any(one.work.glob("*/samples.parquet")) for one in sets):
        works = {one.work: {name: Split(one.work, name) for name in splits(one.work)} for one in sets}
        trained = [works[one.work][one.split] for one in sets if one.split in works[one.work]]
        tests = [there[data.test].num_images for there in works.values() if data.test in there]
        return _Size(
            sum(split.num_images for split in trained),
            sum(tests),
            sum(split.num_images for there in works.values() for split in there.values()),
            sum(split.num_captions for split in trained),
            None,
        )
    manifest = project.manifest() if project.dataset and project.brings else None
    if manifest is None and not project.brings:
        return None
    if manifest is None:
        drawn = dict(pair.split("=") for pair in data.settings)
        images = {
            name: int(drawn.get(name, default)) for name, default in (("train", 4000), ("val", 500), ("test", 500))
        }
        return _Size(images["train"], images["test"], sum(images.values()), _CAPTIONS * images["train"], None)
    counts = {name: count.images or 0 for name, count in manifest.counts.items()}
    if not counts.get(data.train_split):
        return None
    captions = manifest.counts[data.train_split].captions or _CAPTIONS * counts[data.train_split]
    return _Size(counts[data.train_split], counts.get(data.test, 0), sum(counts.values()), captions, manifest.gigabytes)


def _costs(project: Project, stage: Stage, state: str, rates: Mapping[str, Any]) -> dict[str, Any]:
    """Return bytes, disk, seconds, source and licence of a stage that is not up to date."""
    if state == "up to date":
        return {}
    size = _size(project)
    before = ledger.read(_ledger_path(project, stage))
    costs: dict[str, Any] = {}
    if size is not None:
        costs = _ESTIMATES[stage.name](project, stage, size, rates)
    if costs.get("seconds") is not None:
        costs["source"] = f"one core of {rates['machine']}"
    if before is not None:
        costs |= {"seconds": before.seconds, "disk": sum(before.outputs.values()), "source": "its last time here"}
    manifest = project.manifest() if stage.name == "download" else None
    if manifest is not None:
        known = [file.bytes for file in manifest.files]
        total = sum(known) if None not in known else manifest.gigabytes and int(1e9 * manifest.gigabytes)  # type: ignore[arg-type]
        costs |= {"bytes": total or None, "licence": manifest.licence}
    return costs


def _ledger_path(project: Project, stage: Stage) -> Path:
    """Return the ledger a stage of this name writes; of stages with several, the first."""
    test = project.work / project.recipe.data.test
    return {
        "download": project.raw / "ledger.json",
        "shard": project.work / "shard.ledger.json",
        "extract-teachers": project.sets[0].work
        / project.sets[0].split
        / "teachers"
        / _table(project, stage)
        / "ledger.json",
        "index": test / "index" / "none",
        "audit": test / "audit" / "ledger.json",
        "train": project.run / "ledger.json",
        "eval": project.run / "eval" / "ledger.json",
        "report": project.run / "report.ledger.json",
    }[stage.name]


def _table(project: Project, stage: Stage) -> str:
    """Return the folder of the tables that an extraction writes."""
    if stage.name != "extract-teachers":
        return ""
    first = project.sets[0]
    names: list[str] = []
    if (first.work / first.split / "samples.parquet").is_file():
        split = Split(first.work, first.split)
        names = [tables.find_teacher(split, modality, stage.what) for modality in ("image", "text")]
    return next(filter(None, names), teacher_name(stage.what))


def _time(number: float, rates: Mapping[str, Any], *names: str) -> float | None:
    """Return seconds for a number of things by a rate; None where it was not measured."""
    rate: Any = rates
    for name in names:
        rate = rate.get(name, {}) if isinstance(rate, dict) else {}
    return number / rate if isinstance(rate, int | float) and rate else None


def _download(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    if size.gigabytes is None:
        return {"seconds": _time(size.total, rates, "scenes", "images")}
    return {"disk": int(2e9 * size.gigabytes)}  # the archives and what they unpack to


def _shard(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    disk = None if size.gigabytes is None else int(1e9 * size.gigabytes)
    return {"disk": disk, "seconds": _time(size.total, rates, "shard", "images")}


def _extract(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    images = size.train + size.test
    rows = images if stage.what == project.recipe.teachers.image else images * size.captions // max(size.train, 1)
    teacher = teacher_name(stage.what)
    width = rates["teachers"].get(teacher, {}).get("width")
    disk = rows * width * 2 if width else None  # float16
    return {"disk": disk, "seconds": _time(rows, rates, "teachers", teacher, "rows")}


def _index(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    teachers = project.recipe.teachers
    widths = [rates["teachers"].get(name, {}).get("width") for name in (teachers.image, teachers.text)]
    if None in widths:
        return {}
    products = size.test**2 * widths[0] + size.test_captions**2 * widths[1]
    disk = 4 * (size.test * widths[0] + size.test_captions * widths[1])
    return {"disk": disk, "seconds": _time(products, rates, "index", "multiplications")}


def _audit(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    return {"seconds": _time(size.test, rates, "audit", "images")}


def _eval(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    """Add up reading every item once and, for models that look at pairs, the pairs."""
    images, captions = size.test, size.test_captions
    for folder in project.scored_on()[0][1:]:
        if (folder / "test" / "samples.parquet").is_file():
            split = Split(folder, "test")
            images, captions = images + split.num_images, captions + split.num_captions
    seconds = 0.0
    for recipe in project.recipe.parts or (project.recipe,):
        key = recipe.name.partition("/")[0]
        measured = rates["train"].get(key, {})
        candidates = recipe.eval.rerank * (size.test + size.test_captions) if "matches" in measured else 0
        pairs = size.test * size.test_captions if "scores" in measured else 0
        numbers = {"images": images, "captions": captions, "scores": pairs, "matches": candidates}
        for what, number in numbers.items():
            needed = _time(number, rates, "train", key, what) if number else 0.0
            if needed is None:
                return {}
            seconds += needed
    return {"seconds": seconds}


def _nothing(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _train(project: Project, stage: Stage, size: _Size, rates: Mapping[str, Any]) -> dict[str, Any]:
    seconds, disk = 0.0, 0
    for recipe in project.recipe.parts or (project.recipe,):
        config = recipe.train
        steps = config.steps or config.epochs * (size.captions // config.batch)
        key = recipe.name.partition("/")[0]
        needed = _time(steps * config.batch, rates, "train", key, "pairs")
        parameters = rates["train"].get(key, {}).get("parameters")
        if needed is None:
            return {}
        seconds += needed
        # The best model, and in each checkpoint the weights and AdamW's two moments.
        disk += int(4 * parameters * (1 + 3 * (config.keep_checkpoints + 1)))
    return {"disk": disk, "seconds": seconds}


_ESTIMATES = {
    "download": _download,
    "shard": _shard,
    "extract-teachers": _extract,
    "index": _index,
    "audit": _audit,
    "train": _train,
    "eval": _eval,
    "report": _nothing,
}


def _notes(project: Project, rates: Mapping[str, Any], smoke: bool) -> list[str]:
    notes = [projects.SMOKE] if smoke else []
    if not project.needs_teachers:
        notes.append("No teacher is used (loss.alpha and loss.beta are 0): nothing to extract, index or audit.")
    if mixture := training_data.sentence(project.recipe, project.work):
        notes.append(mixture)
    manifest = project.manifest() if project.brings else None
    for file in manifest.files if manifest else ():
        if file.by_hand and not (project.raw / file.path).is_file():
            notes.append(f"{file.path} has to be brought by hand: {file.by_hand}")
    notes += [f"{name} is not there and will not be scored: {how}" for name, how in project.scored_on()[1].items()]
    notes.append(
        f"Times are CPU time of one core of {rates['machine']}, measured {rates['date']}, or of the last time here; "
        "more cores share it, an accelerator takes a fraction of it. Where no time is given, none was measured."
    )
    return notes
