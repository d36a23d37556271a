"""The stages of a recipe, from nothing to the report: what `cusa plan` asks and `cusa run` does.

In `OUT`: `raw/DATA SET`, `data/DATA SET` (the work folder), `runs/RECIPE`. Each stage calls what the single command of
its name calls, and is up to date by that one's ledger.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import ledger, tables
from cusa.manifests.events import Callbacks
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome
from cusa.workflow import download as downloading
from cusa.workflow import evaluate as scoring
from cusa.workflow import report as reporting
from cusa.workflow import train as training
from cusa.workflow.project import Project

Name = Literal["download", "shard", "extract-teachers", "index", "audit", "train", "eval", "report"]


@dataclass(frozen=True)
class Stage:
    """One stage of a project."""

    name: Name
    what: str
    """On what, in a few words; what must be known to tell two stages of a name apart."""
    do: Callable[[Callbacks], "StageResult"]
    """Do it, or find it up to date."""
    needs: tuple[str, ...] = ()
    """Names of the stages it builds on."""


@dataclass(frozen=True)
class StageResult:
    """What a stage of a project came to."""

    outcomes: list[Outcome]
    figures: Mapping[str, float] = field(default_factory=dict)
    """The numbers of `eval`, by the names of `cusa.workflow.evaluate.figures`."""


def of(project: Project) -> list[Stage]:
    """Return a project's stages in their order; those that a recipe does not need are not among them."""
    recipe, work, stages = project.recipe, project.work, []
    if project.brings:
        stages.append(Stage("download", project.dataset, lambda callbacks: StageResult(_download(project, callbacks))))
        stages.append(
            Stage("shard", project.dataset, lambda callbacks: StageResult(_shard(project, callbacks)), ("download",))
        )
    if project.needs_teachers:
        load = _loader()
        for modality in ("image", "text"):
            words = dict.fromkeys(one.teachers[modality] for one in project.sets)
            stages += [_extraction(project, modality, teacher, load) for teacher in words]
        needs = ("shard", "extract-teachers")
        audited = ", ".join(_audited(project))
        stages.append(Stage("index", audited, lambda callbacks: StageResult(_index(project, callbacks)), needs))
        stages.append(
            Stage("audit", audited, lambda callbacks: StageResult(_audit(project, callbacks)), (*needs, "index"))
        )
    needs = ("shard", "extract-teachers")
    stages.append(Stage("train", recipe.name, lambda callbacks: StageResult(_train(project, callbacks)), needs))
    scored = ", ".join(dict.fromkeys([work.name, *(one.work.name for one in project.sets)]))
    stages.append(Stage("eval", scored, lambda callbacks: _eval(project, callbacks), (*needs, "train")))
    stages.append(
        Stage(
            "report", recipe.name, lambda callbacks: StageResult(_report(project, callbacks)), (*needs, "train", "eval")
        )
    )
    return stages


def _loader() -> Callable[[str, str], Any]:
    """Return what loads a teacher once for all splits."""

    @cache
    def load(name: str, modality: str) -> Any:
        from cusa.models.teachers.registry import load_teacher

        return load_teacher(name, modality)

    return load


def _extraction(project: Project, modality: str, teacher: str, load: Callable[[str, str], Any]) -> Stage:
    return Stage(
        "extract-teachers",
        teacher or f"the work folder's {modality} teacher",
        lambda callbacks: StageResult(_extract(project, modality, teacher, load, callbacks)),
        ("shard",),
    )


def _download(project: Project, callbacks: Callbacks) -> list[Outcome]:
    settings = project.recipe.data.settings
    return [downloading.download(project.dataset, out=project.raw, settings=settings, on_event=callbacks.on_event)]


def _shard(project: Project, callbacks: Callbacks) -> list[Outcome]:
    from cusa.pipeline import readers, shard
    from cusa.pipeline.config import ReadConfig, ShardConfig

    manifest, rules = project.manifest(), project.recipe.data.caption_sources
    if manifest is None:
        config = ReadConfig(caption_sources=rules)
        reading = readers.read("karpathy", project.raw / "dataset_scenes.json", project.raw, config)
    else:
        config = ReadConfig(dataset=manifest.name, caption_sources=rules)
        images = project.raw / manifest.images
        reading = readers.read(manifest.reader, project.raw / manifest.source, images, config)
    return [shard.run(ShardConfig(), reading=reading, out=project.work, on_event=callbacks.on_event)]


def _extract(
    project: Project, modality: str, teacher: str, load: Callable[[str, str], Any], callbacks: Callbacks
) -> list[Outcome]:
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig

    done = []
    for split in _splits_with_teachers(project, modality, teacher):
        given = _table_not_from_a_name(split, modality, teacher)
        if given is not None:
            done.append(given)
            continue
        if modality == "image":
            _refuse_regions(split, teacher)
        done.append(
            extract.run(
                ExtractConfig(), split=split, teacher=teacher, modality=modality, on_event=callbacks.on_event, load=load
            )
        )
    return done


def _table_not_from_a_name(split: Split, modality: str, teacher: str) -> Outcome | None:
    """Return the outcome of a table that is not made by a named teacher: imported, or the only one where none is named.

    Raises:
        DataError: if no teacher is named and the split has none, or several.
        StaleError: if it was imported for another state of the split.
    """
    name = tables.find_teacher(split, modality, teacher) if teacher else tables.choose_teacher(split, modality)
    folder = split.folder / "teachers" / name
    if not name:
        return None
    old = ledger.read(folder / "ledger.json")
    if old is None or (teacher and "features" not in old.inputs):
        return None
    if old.inputs.get("split") != split.digest:
        raise StaleError(
            f"{folder} was made for another state of {split.folder}. Make it again with `cusa extract-teachers "
            f"{split.work} --{modality} {name}`, or import it again.",
            path=folder,
        )
    return Outcome(old.stage, folder, False, "", old.counts, 0.0)


def _refuse_regions(split: Split, teacher: str) -> None:
    if split.samples["ext"].unique().to_pylist() == ["npy"]:
        raise DataError(
            f"{split.folder} holds regions without pictures, so {teacher} cannot look at them. Extract it where the "
            f"pictures are, and give its rows with `cusa extract-teachers {split.work} --image {teacher} --import "
            "FILE`.",
            split=split.name,
        )


def _splits_with_teachers(project: Project, modality: str, teacher: str) -> list[Split]:
    """Return the splits that need a teacher: training uses them, and others are audited."""
    opened: dict[tuple[Path, str], Split] = {}
    for one in project.sets:
        if one.teachers[modality] == teacher:
            there = splits(one.work)
            names = dict.fromkeys((one.split, project.recipe.data.test, *_audited(project)))
            opened |= {(one.work, name): Split(one.work, name) for name in names if name in there}
    return list(opened.values())


def _audited(project: Project) -> tuple[str, ...]:
    """Return the names of the splits that are indexed and audited."""
    return project.recipe.audit.splits or (project.recipe.data.test,)


def _splits_to_audit(project: Project) -> list[tuple[Split, dict[str, str]]]:
    """Open the splits that are indexed and audited, of every data set; each with its teachers' tables by modality.

    Raises:
        ConfigError: if the recipe names one that no data set has.
    """
    works = {one.work: one for one in reversed(project.sets)}
    audited = [(one, name) for one in works.values() for name in _audited(project) if name in splits(one.work)]
    there = {name for _, name in audited}
    if missing := [name for name in project.recipe.audit.splits if name not in there]:
        every = dict.fromkeys(name for work in works for name in splits(work))
        raise ConfigError(
            f"audit.splits names {', '.join(missing)}, which {', '.join(map(str, works))} has not: there are "
            f"{', '.join(every)}.",
            key="audit.splits",
        )
    opened = [(Split(one.work, name), one.teachers) for one, name in audited]
    return [
        (split, {kind: tables.choose_teacher(split, kind, word) for kind, word in teachers.items()})
        for split, teachers in opened
    ]


def _index(project: Project, callbacks: Callbacks) -> list[Outcome]:
    from cusa.pipeline import index
    from cusa.pipeline.config import IndexConfig

    return [
        index.run(IndexConfig(), split=split, teacher=name, on_event=callbacks.on_event)
        for split, teachers in _splits_to_audit(project)
        for name in teachers.values()
    ]


def _audit(project: Project, callbacks: Callbacks) -> list[Outcome]:
    from cusa.pipeline import audit
    from cusa.pipeline.config import AuditConfig
    from cusa.pipeline.pairs.neighbourhoods import Encoders

    return [
        audit.run(
            AuditConfig(),
            split=split,
            encoders=Encoders(**teachers),
            on_event=callbacks.on_event,
        )
        for split, teachers in _splits_to_audit(project)
    ]


def _train(project: Project, callbacks: Callbacks) -> list[Outcome]:
    done = training.train(
        project.recipe,
        work=project.work,
        out=project.run,
        force=project.force,
        callbacks=callbacks,
    )
    return [done]


def _eval(project: Project, callbacks: Callbacks) -> StageResult:
    data, missing = project.scored_on()
    config = project.recipe.eval.model_dump(mode="json")
    settings = [f"{key}={json.dumps(value)}" for key, value in config.items()]
    folders = scoring.evaluate_folders(
        str(project.run),
        scoring.EvalRequest(data=data, settings=settings, trust=project.recipe.student.classes, force=project.force),
        on_event=callbacks.on_event,
    )
    notes = tuple(f"{name} is not there, so it is not scored. Bring it: {how}" for name, how in missing.items())
    figures = scoring.figures([folder.summary for folder in folders], project.work)  # refuses one that failed
    first, *others = [folder.outcome for folder in folders if folder.outcome is not None]
    return StageResult([replace(first, notes=(*first.notes, *notes)), *others], figures)


def _report(project: Project, callbacks: Callbacks) -> list[Outcome]:
    baseline = project.run.parent / f"{project.run.name.rpartition('-')[0]}-baseline"
    scored = (baseline / "eval" / "metrics.json").is_file() and baseline != project.run
    runs = [baseline, project.run] if scored else [project.run]
    return [reporting.report(runs, work=project.work, out=project.run / "report.html")]
