"""Evaluation on any data: which stage a data folder needs, with what, and where its results go.

Each function returns values and tells progress through `on_event`; none prints. `cusa.cli` and the demo call it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa.errors import ConfigError, CusaError, DataError, nearest
from cusa.eval import paper
from cusa.eval.config import EMBEDDINGS
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import cxc_ratings
from cusa.manifests.samples import Split, splits
from cusa.manifests.storage import store
from cusa.workflow import layouts

if TYPE_CHECKING:
    from cusa.eval.share import Share
from cusa.workflow.evaluated_model import _Model, _model, _trained_on

STS = "sts"
"""The task on the STS sets; the others, `cusa.eval.tasks.registry.TASKS`, are asked of a work folder."""


@dataclass(frozen=True)
class _Asked:
    """What is asked of the model, on every folder alike."""

    tasks: Sequence[str]
    truth: Path | None
    ratings: Path | None
    ids: Path | None
    split: str
    force: bool
    share: "Share"
    on_event: OnEvent


def evaluate(
    name: str,
    *,
    data: Sequence[Path],
    tasks: Sequence[str] = (),
    split: str = "",
    out: Path | None = None,
    ids: Path | None = None,
    settings: Iterable[str] = (),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> list[dict[str, Any]]:
    """Score a run, a model folder or a hub model on each data folder.

    Started by `torchrun`, the ranks share the encoding; rank 0 ranks and writes, and all return the same.

    Args:
        name: a run folder, a model folder, a sentence-transformers folder (texts only), or a hub name.
        data: work folders; data sets in their official layout (`cusa.workflow.layouts`), whose test split is then
            sharded into the folder of the results; folders of the STS sets in SentEval's layout; and at most one folder
            each of ECCV Caption's ground truth and of CxC's ratings, which then serve the COCO folders.
        tasks: which; all that the data allow when empty, `all` for every one there is. One whose data are missing says
            so, and the others go on.
        split: of the work folders; a run's own test split, else `test`, when empty.
        out: where the results go; `eval` in the run's folder (a folder of its own there for other data than the run's),
            or `eval/NAME` in the work folder. Results on STS of what is no run are kept only if this is given.
        ids: file of the image keys that the split must consist of, one a line (`ids.txt` of an earlier evaluation).
        settings: `key=value` of `cusa.eval.config.EvalConfig`.
        force: score again.
        on_event: hears of every batch.

    Returns:
        For each data folder what its `metrics.json` holds, with `data`, `out` (null where nothing is kept) and `fresh`.
        Of several folders one that cannot be evaluated has `data` and `failed` instead. With `all`, at the end
        `missing`: data set -> how to bring it.

    Raises:
        ConfigError: if there is no such task.
        DataError: if the model or the split is not there, or a folder is none of those above.
    """
    from cusa.eval.share import ALONE, Share
    from cusa.train import ranks

    model = _model(name, settings)
    if not ranks.started_together():
        return _evaluate(model, data, tasks, split, out, ids, force, ALONE, on_event)
    with ranks.joined(model.config.device) as device:
        share = Share(together=True, device=device)
        heard = on_event if share.first else ignore
        return _evaluate(model, data, tasks, split, out, ids, force, share, heard)


def _evaluate(
    model: _Model,
    data: Sequence[Path],
    tasks: Sequence[str],
    split: str,
    out: Path | None,
    ids: Path | None,
    force: bool,
    share: "Share",
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    from cusa.eval import summary
    from cusa.eval.tasks.registry import TASKS

    known = [*TASKS, STS]
    chosen = list(known) if "all" in tasks else list(dict.fromkeys(tasks))
    for task in chosen:
        if task not in known:
            raise ConfigError(f"There is no task {task!r}. {nearest(task, [*known, 'all'])}.", task=task)
    kinds = _sorted_by_kind(data)
    on_work = [task for task in chosen if task != STS]
    for wanted, there, what in (
        (on_work, [*kinds["work"], *kinds["layout"]], "a work folder"),
        (STS in chosen, kinds["sts"], "the folder of the STS sets"),
    ):
        if wanted and not there and "all" not in tasks:
            task = STS if wanted is True else on_work[0]
            raise ConfigError(f"--tasks {task} needs {what}: give it with --data.", task=task)
    truth, ratings = (next(iter(kinds[kind]), None) for kind in ("truth", "ratings"))
    asked = _Asked(on_work, truth, ratings, ids, split, force, share, on_event)
    folders = [(kind, folder) for kind in ("work", "layout") for folder in kinds[kind] if on_work or not chosen]
    folders += [("sts", folder) for folder in kinds["sts"] if STS in chosen or not chosen]
    names = _names([folder for _, folder in folders])
    results: list[dict[str, Any]] = []
    for (kind, folder), called in zip(folders, names, strict=True):
        place = out if out is None or len(folders) == 1 else out / called
        cache = (model.run or out) and (model.run or out or Path()) / EMBEDDINGS
        try:
            if kind == "sts":
                results.append(_on_sts(model, folder, place, cache, asked))
                continue
            work = folder
            if kind == "layout":
                work = _sharded(model, folder, called, out, asked)
                place = place or (model.run or Path()) / "eval" / called
            results.append({**_on_work(model, work, place, cache, asked), "data": str(folder)})
        except CusaError as error:
            if len(folders) == 1:
                raise
            results.append({"data": str(folder), "failed": str(error)})
    home = out if out is not None else model.run / "eval" if model.run is not None else None
    if home is not None and len(folders) > 1:
        share.agree(lambda: summary.write(home, results))
    if "all" in tasks:
        missing = _missing(results, kinds)
        return [*results, {"missing": missing}] if missing else results
    return results


def _sorted_by_kind(data: Sequence[Path]) -> dict[str, list[Path]]:
    """Tell what each data folder is.

    Raises:
        ConfigError: if there are two ground truths, or one and nothing that it is of.
        DataError: if a folder is nothing that can be evaluated on.
    """
    from cusa.eval import evaluate_sts
    from cusa.manifests.judgements import eccv_truth

    kinds: dict[str, list[Path]] = {"work": [], "layout": [], "sts": [], "truth": [], "ratings": []}
    for folder in data:
        if any(folder.glob("*/samples.parquet")):
            kinds["work"].append(folder)
        elif eccv_truth.is_ground_truth(folder):
            kinds["truth"].append(folder)
        elif cxc_ratings.is_layout(folder):
            kinds["ratings"].append(folder)
        elif evaluate_sts.is_layout(folder):
            kinds["sts"].append(folder)
        elif layouts.layout_of(folder) is not None:
            kinds["layout"].append(folder)
        else:
            what = "is nothing to evaluate on" if folder.is_dir() else "does not exist"
            raise DataError(
                f"{folder} {what}. Give a work folder (`cusa shard` makes one), a data set in its official layout "
                "(`cusa download` brings it), the folder above STS/STS12-en-test and SICK, ECCV Caption's ground truth "
                "or CxC's ratings.",
                path=folder,
            )
    for kind, what in (("truth", "a ground truth of COCO's test split"), ("ratings", "CxC's ratings of COCO")):
        if len(kinds[kind]) > 1 or (kinds[kind] and not (kinds["work"] or kinds["layout"])):
            raise ConfigError(
                f"{kinds[kind][-1]} is {what}: give one, and the work folder it is for with --data as well.",
                data=kinds[kind],
            )
    return kinds


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder's results: its own, with a bit of a digest where two have the same."""
    own = [folder.resolve().name for folder in folders]
    return [
        name if own.count(name) == 1 else f"{name}-{store.digest(str(folder.resolve()))[:6]}"
        for name, folder in zip(own, folders, strict=True)
    ]


def _missing(results: Sequence[Mapping[str, Any]], kinds: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Return the data sets of the paper's tables that were not given, and how to bring each."""
    there = {str(result.get("dataset", "")) for result in results}
    there |= {name for name, kind in (("cxc", "ratings"), ("sts", "sts")) if kinds[kind]}
    wanted = ("coco", "flickr30k", "cxc", "cub", "sop", "in-shop", "inaturalist-2018", "sts")
    return {
        name: f"`cusa download {name} --out raw/{name}`, then --data raw/{name}" for name in wanted if name not in there
    }


def _sharded(model: _Model, folder: Path, called: str, out: Path | None, asked: _Asked) -> Path:
    """Shard the wanted split of a data set in its official layout into the folder of the results."""
    home = out if out is not None else model.run / "eval" if model.run is not None else None
    if home is None:
        layout, source = layouts.layout_of(folder) or ("LAYOUT", folder)
        raise ConfigError(
            f"{folder} is no work folder, and what is made of it has no place: give --out, or make a work folder with "
            f"`cusa shard {layout} {source} --out WORK` and give that.",
            data=folder,
        )
    place = home / "data" / called
    told = {"out": place, "split": asked.split or "test", "train_classes": model.config.train_classes}
    asked.share.agree(lambda: str(layouts.shard_split(folder, **told, on_event=asked.on_event)))  # type: ignore[arg-type]
    return place


def _on_work(model: _Model, work: Path, out: Path | None, cache: Path | None, asked: _Asked) -> dict[str, Any]:
    from cusa.eval import evaluate as stage
    from cusa.models.teachers.hub import teacher_name

    split = asked.split
    if model.run is not None:
        here = _trained_on(model.run, model.recipe, work)
        own = model.recipe.get("data", {}).get("test", "")
        split = split or (own if own in splits(work) else "")
        out = out or (model.run / "eval" if here else model.run / "eval" / work.resolve().name)
    else:
        out = out or work / "eval" / teacher_name(model.name)
    opened = Split(work, split or "test")
    if asked.ids is not None:
        _hold_to(opened, asked.ids)
    result = stage.run(
        model.config,
        load=model.load,
        student_digest=model.digest,
        split=opened,
        out=out,
        tasks=asked.tasks,
        ground_truth=asked.truth,
        ratings=asked.ratings,
        train=model.trained_on(),
        cache=cache or out / EMBEDDINGS,
        share=asked.share,
        force=asked.force,
        on_event=asked.on_event,
    )
    return {**result, "data": str(work), "out": str(out)}


def _on_sts(model: _Model, folder: Path, out: Path | None, cache: Path | None, asked: _Asked) -> dict[str, Any]:
    from cusa.eval import evaluate_sts as stage

    out = out or (model.run / "eval" / STS if model.run is not None else None)
    result = stage.run(
        model.config,
        load=model.load,
        encoder_digest=model.digest,
        folder=folder,
        out=out,
        train=model.trained_on(),
        cache=cache or (out / EMBEDDINGS if out is not None else None),
        share=asked.share,
        force=asked.force,
        on_event=asked.on_event,
    )
    return {**result, "data": str(folder), "out": None if out is None else str(out)}


def _hold_to(split: Split, ids: Path) -> None:
    """Refuse a split that does not consist of the images of a list.

    Raises:
        DataError: if the list cannot be read, or the split has other images.
    """
    try:
        wanted = {line.strip() for line in ids.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{ids} cannot be read ({error}). Give a text file with an image key a line.", path=ids
        ) from None
    lost, more = sorted(wanted - set(split.image_keys)), sorted(set(split.image_keys) - wanted)
    if lost or more:
        first = f"{lost[0]!r} is missing" if lost else f"{more[0]!r} is none of them"
        raise DataError(
            f"{split.folder} is not what {ids} lists: {len(lost):,} of {len(wanted):,} images are missing and "
            f"{len(more):,} are others ({first}). `cusa shard subset {split.work} --keys {ids} --out WORK` makes the "
            "split of exactly these.",
            path=ids,
        )


def figures(results: Iterable[Mapping[str, Any]], work: Path) -> dict[str, float]:
    """Return every number of an evaluation by name: TASK/METRIC on the work folder and STS, else DATA SET/TASK/METRIC.

    Args:
        results: what `evaluate` returned.
        work: the work folder whose tasks go without its data set's name.

    Raises:
        DataError: if one of the data folders could not be evaluated on.
    """
    found: dict[str, float] = {}
    for result in results:
        if "failed" in result:
            raise DataError(f"{result['data']}: {result['failed']}", data=result["data"])
        if "missing" in result:
            continue
        own = "pairs" in result or Path(result["data"]) == work
        result = paper.as_pictures(result)
        for task, told in result["tasks"].items():
            start = task if own else f"{result['dataset']}/{task}"
            numbers = told.get("metrics", {})
            found |= {f"{start}/{name}": value for name, value in numbers.items() if value is not None}
    return found
