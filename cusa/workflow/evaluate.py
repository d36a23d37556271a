"""Evaluation on any data: which stage a data folder needs, with what, and where its results go.

Each function returns values and reports progress through `on_event`; none prints.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa import recipe as recipes
from cusa.errors import ConfigError, CusaError, DataError, nearest
from cusa.eval import paper
from cusa.eval.config import EMBEDDINGS, EvalConfig
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split, splits
from cusa.manifests.stage import Outcome
from cusa.models import source
from cusa.pipeline.units.sharing import current
from cusa.workflow import layouts
from cusa.workflow.evaluated.data import DataFolders, Kind, refuse_other_images, result_names, sort_by_kind
from cusa.workflow.evaluated.model import EvaluatedModel, open_model

if TYPE_CHECKING:
    from cusa.eval.job import Evaluated, Job, ModelSource
    from cusa.eval.share import Share
    from cusa.workflow.evaluated.units import SharedEvaluation

STS = "sts"
"""The task on the STS sets; the others, `cusa.eval.tasks.registry.TASKS`, are evaluated on a split."""
ALL = "all"
"""Stands for every task there is."""


@dataclass(frozen=True)
class EvalRequest:
    """On what, by which tasks and into which folder a model is evaluated."""

    data: Sequence[Path]
    """Work folders; data sets in their official layout (`cusa.workflow.layouts`), whose test split is then
    sharded into the folder of the results; folders of the STS sets in SentEval's layout; and at most one folder
    each of ECCV Caption's ground truth, of CxC's ratings, of SugarCrepe's and of RoCOCO's files, which then
    serve the COCO folders, and of Flickr8k's judgements, which serve the folders that have its images (and is
    such a data set itself where it has them and no work folder does)."""
    tasks: Sequence[str] = ()
    """Which; all that the data allow when empty, `all` for every one there is. One whose data are missing says so, and
    the others go on."""
    split: str = ""
    """Of the work folders; a run's own test split, else `test`, when empty."""
    output_folder: Path | None = None
    """`eval` in the run's folder when None (a folder of its own there for other data than the run's), or `eval/NAME` in
    the work folder. Results on STS of what is no run are kept only if this is given."""
    ids: Path | None = None
    """File of the image keys that the split must consist of, one a line (`ids.txt` of an earlier evaluation)."""
    settings: Sequence[str] = ()
    """`key=value` of `cusa.eval.config.EvalConfig`."""
    trust: Sequence[str] = ()
    """Classes outside cusa, `module:Class`, that the model's folder may name."""
    force: bool = False
    """Score again even if nothing changed."""

    def chosen_tasks(self) -> list[str]:
        """Return the tasks by name, each once; empty for all that the data allow.

        Raises:
            ConfigError: if there is no such task.
        """
        from cusa.eval.tasks.registry import TASKS

        every = [*TASKS, STS]
        for task in self.tasks:
            if task not in (*every, ALL):
                raise ConfigError(f"There is no task {task!r}. {nearest(task, [*every, ALL])}.", task=task)
        return every if ALL in self.tasks else list(dict.fromkeys(self.tasks))


@dataclass(frozen=True)
class EvaluatedFolder:
    """What an evaluation comes to on one data folder."""

    summary: Mapping[str, Any]
    """As `evaluate` returns it."""
    outcome: Outcome | None
    """None where the folder could not be evaluated on."""


def evaluate(name: str, request: EvalRequest, *, on_event: OnEvent = ignore) -> list[dict[str, Any]]:
    """Score a run, a model folder or a hub model on each data folder.

    Started by `torchrun`, the ranks share the encoding; rank 0 ranks and writes, and all return the same.

    Args:
        name: a run folder, a model folder, a sentence-transformers folder (texts only), or a hub name.
        request: on what, by which tasks, and where the results go.
        on_event: called with every batch.

    Returns:
        For each data folder what its `metrics.json` holds, with `data`, `out` (null where nothing is kept) and `fresh`.
        Of several folders one that cannot be evaluated has `data` and `failed` instead. With `all`, at the end
        `missing`: data set -> how to bring it.

    Raises:
        ConfigError: if there is no such task, or its data are not given.
        DataError: if the model or the split does not exist, or a folder holds nothing to evaluate on.
    """
    folders, missing = _evaluate(name, request, on_event)
    results = [dict(folder.summary) for folder in folders]
    return [*results, {"missing": missing}] if missing else results


def evaluate_folders(name: str, request: EvalRequest, *, on_event: OnEvent = ignore) -> list[EvaluatedFolder]:
    """Do what `evaluate` does, and return each data folder's outcome with its summary."""
    return _evaluate(name, request, on_event)[0]


def _evaluate(name: str, request: EvalRequest, on_event: OnEvent) -> tuple[list[EvaluatedFolder], dict[str, str]]:
    """Return what each folder comes to and, where all tasks are asked for, the data sets that are not there."""
    chosen = request.chosen_tasks()
    # A key that does not exist, before any data are looked at.
    recipes.section(EvalConfig, request.settings, name="eval")
    source.refuse_missing(name)
    folders = sort_by_kind(request.data)
    _refuse_tasks_without_data(chosen, folders, request)
    model = open_model(name, request.settings, trust=request.trust)

    from cusa.eval.share import ALONE, Share  # here: torch takes a second, what is wrong is said before
    from cusa.train import ranks

    if ranks.started_together() and is_shared():
        raise ConfigError(
            "--workers, --engine and --unit-range share the work among processes of their own; torchrun does it among "
            "its ranks. Use one of the two.",
            option="--workers",
        )
    if not ranks.started_together():
        return _Evaluation(model, request, chosen, folders, ALONE, on_event).run()
    with ranks.process_group(model.config.device) as device:
        share = Share(together=True, device=device)
        return _Evaluation(model, request, chosen, folders, share, on_event if share.first else ignore).run()


def _refuse_tasks_without_data(chosen: Sequence[str], folders: DataFolders, request: EvalRequest) -> None:
    if ALL in request.tasks:
        return
    retrieval = [task for task in chosen if task != STS]
    if retrieval and not folders.retrieval:
        raise ConfigError(f"--tasks {retrieval[0]} needs a work folder: give it with --data.", task=retrieval[0])
    if STS in chosen and not folders.sts:
        raise ConfigError(f"--tasks {STS} needs the folder of the STS sets: give it with --data.", task=STS)


def is_shared() -> bool:
    """Return whether other processes do a part of an evaluation here, see `cusa.pipeline.units.sharing`."""
    shared = current()
    return shared.workers.count != 1 or shared.workers.engine.kind != "local" or shared.only is not None


@dataclass(frozen=True)
class _Evaluation:
    """One model on several data folders."""

    model: EvaluatedModel
    request: EvalRequest
    chosen: Sequence[str]
    folders: DataFolders
    share: "Share"
    on_event: OnEvent

    @property
    def home(self) -> Path | None:
        """Folder of what belongs to no data folder alone."""
        return self.request.output_folder or self.model.results_folder

    def run(self) -> tuple[list[EvaluatedFolder], dict[str, str]]:
        """Evaluate on every folder; where there are several, one that fails does not stop the others."""
        from cusa.eval import summary

        kinds: list[Kind] = []
        if not self.chosen or any(task != STS for task in self.chosen):
            kinds += ["work", "layout"]
        if not self.chosen or STS in self.chosen:
            kinds.append("sts")
        folders = self.folders.of_kinds(kinds)
        names = result_names([folder for _, folder in folders])
        results: list[EvaluatedFolder] = []
        for (kind, folder), name in zip(folders, names, strict=True):
            out = self.request.output_folder
            if out is not None and len(folders) > 1:
                out = out / name
            try:
                results.append(self._on(kind, folder, name, out))
            except CusaError as error:
                if len(folders) == 1:
                    raise
                results.append(EvaluatedFolder({"data": str(folder), "failed": str(error)}, None))
        home, summaries = self.home, [result.summary for result in results]
        if home is not None and len(folders) > 1 and not any("units_made" in one for one in summaries):
            self.share.agree(lambda: summary.write(home, summaries))
        return results, _missing(summaries, self.folders) if ALL in self.request.tasks else {}

    def _on(self, kind: Kind, folder: Path, name: str, out: Path | None) -> EvaluatedFolder:
        if kind != "work" and current().only is not None:
            raise ConfigError(
                f"--unit-range shares the embeddings of a work folder, and {folder} is none. Evaluate on it without "
                "--unit-range; of a data set in its official layout make a work folder with `cusa shard` first.",
                option="--unit-range",
            )
        if kind == "sts":
            return self._on_sts(folder, out)
        if kind == "layout":
            work = self._shard(folder, name)
            return self._on_work(work, out or (self.model.run or Path()) / "eval" / name, data=folder)
        return self._on_work(folder, out)

    def _cache(self, out: Path | None) -> Path | None:
        """Return the folder of the embeddings that are kept: one for all data of a run."""
        home = self.model.run or self.request.output_folder or out
        return None if home is None else home / EMBEDDINGS

    def _shard(self, folder: Path, name: str) -> Path:
        """Shard the wanted split of a data set in its official layout into the folder of the results."""
        if self.home is None:
            layout, source = layouts.layout_of(folder) or ("LAYOUT", folder)
            raise ConfigError(
                f"{folder} is no work folder, and its shards have no place: give --out, or make a work folder with "
                f"`cusa shard {layout} {source} --out WORK` and give that.",
                data=folder,
            )
        work = self.home / "data" / name
        self.share.agree(
            lambda: str(
                layouts.shard_split(
                    folder,
                    out=work,
                    split=self.request.split or "test",
                    train_classes=self.model.config.train_classes,
                    on_event=self.on_event,
                )
            )
        )
        return work

    def _on_work(self, work: Path, out: Path | None, *, data: Path | None = None) -> EvaluatedFolder:
        """Evaluate on a work folder; `data` is what the user named, where that is another one."""
        from cusa.eval import evaluate as stage
        from cusa.eval.evidence import Evidence

        model = self.model
        split, place = place_of_results(model, work, self.request.split)
        out = out or place
        opened = Split(work, split)
        if self.request.ids is not None:
            refuse_other_images(opened, self.request.ids)
        shared = self._shared(work, split, out)
        if shared is not None and shared.only_some:
            note, counts = shared.embed_some()
            return EvaluatedFolder({"data": str(data or work), "out": str(out), "units_made": note, **counts}, None)
        evidence = Evidence.open(
            opened,
            ground_truth=self.folders.truth,
            ratings=self.folders.ratings,
            flickr8k=self.folders.flickr8k,
            altered=self.folders.altered,
        )
        job = self._job(out, [task for task in self.chosen if task != STS])
        source = self._source()
        if shared is not None:
            job, source = replace(job, helpers=shared), replace(source, load=shared.load)
        done = stage.run(model.config, source, evidence, job, on_event=self.on_event)
        return _evaluated_folder(done, data or work, out)

    def _shared(self, work: Path, split: str, out: Path) -> "SharedEvaluation | None":
        """Return what shares the work, where it is to be shared."""
        from cusa.workflow.evaluated.units import SharedEvaluation

        if not is_shared():
            return None
        cache = self._cache(out)
        assert cache is not None
        return SharedEvaluation(self.model, work, split, out, cache, self.on_event)

    def _on_sts(self, folder: Path, out: Path | None) -> EvaluatedFolder:
        from cusa.eval import evaluate_sts as stage

        model = self.model
        out = out or (model.results_folder / STS if model.results_folder is not None else None)
        done = stage.run(model.config, self._source(), folder, self._job(out), on_event=self.on_event)
        return _evaluated_folder(done, folder, out)

    def _source(self) -> "ModelSource":
        from cusa.eval.job import ModelSource

        return ModelSource(self.model.load, self.model.digest, self.model.training_splits(), self.model.features)

    def _job(self, out: Path | None, tasks: Sequence[str] = ()) -> "Job":
        from cusa.eval.job import Job

        return Job(out, tasks, self._cache(out), self.share, self.request.force)


def place_of_results(model: EvaluatedModel, work: Path, split: str) -> tuple[str, Path]:
    """Return the split that a model is evaluated on, and the folder of its results where none is named.

    Args:
        model: the model.
        work: the work folder.
        split: as the user wrote it; the run's own test split if empty.
    """
    from cusa.manifests.origin import teacher_name

    folder = model.results_folder
    if folder is None:
        return split or "test", work / "eval" / teacher_name(model.name)
    own = model.recipe.get("data", {}).get("test", "")
    split = split or (own if own in splits(work) else "")
    return split or "test", folder if model.was_trained_on(work) else folder / work.resolve().name


def _evaluated_folder(done: "Evaluated", data: Path, out: Path | None) -> EvaluatedFolder:
    """Return what `metrics.json` holds, with where it lies and what happened now."""
    remarks = [*done.result["remarks"], *done.outcome.notes]
    place = {"data": str(data), "out": None if out is None else str(out)}
    summary = {**done.result, "remarks": remarks, **place, "fresh": done.outcome.fresh}
    return EvaluatedFolder(summary, done.outcome)


def _missing(results: Sequence[Mapping[str, Any]], folders: DataFolders) -> dict[str, str]:
    """Return the data sets of the paper's tables that were not given, and how to bring each."""
    given = {str(result.get("dataset", "")) for result in results}
    given |= {name for name, there in (("cxc", folders.ratings), ("sts", folders.sts)) if there}
    every = ("coco", "flickr30k", "cxc", "cub", "sop", "in-shop", "inaturalist-2018", "sts")
    return {
        name: f"`cusa download {name} --out raw/{name}`, then --data raw/{name}" for name in every if name not in given
    }


def figures(results: Iterable[Mapping[str, Any]], work: Path) -> dict[str, float]:
    """Return every number of an evaluation by name: TASK/METRIC on the work folder and STS, else DATA SET/TASK/METRIC.

    Args:
        results: what `evaluate` returned.
        work: the work folder whose tasks go without its data set's name.

    Raises:
        DataError: if one of the data folders could not be evaluated on.
    """
    values: dict[str, float] = {}
    for result in results:
        if "failed" in result:
            raise DataError(f"{result['data']}: {result['failed']}", data=result["data"])
        if "missing" in result:
            continue
        own = "pairs" in result or Path(result["data"]) == work
        result = paper.as_pictures(result)
        for task, summary in result["tasks"].items():
            start = task if own else f"{result['dataset']}/{task}"
            numbers = summary.get("metrics", {})
            values |= {f"{start}/{name}": value for name, value in numbers.items() if value is not None}
    return values
