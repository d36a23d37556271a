"""Evaluation on any data: which stage a data folder needs, with what, and where its results go.

Each function returns values and tells progress through `on_event`; none prints. `cusa.cli` and the demo call it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cusa import recipe as recipes
from cusa.errors import ConfigError, DataError, nearest
from cusa.eval.config import EvalConfig
from cusa.manifests import ledger, store
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split, splits

if TYPE_CHECKING:
    from cusa.models.student import Student

STS = "sts"
"""The task on the STS sets; the others, `cusa.eval.tasks.TASKS`, are asked of a work folder."""


def evaluate(
    name: str,
    *,
    data: Sequence[Path],
    tasks: Sequence[str] = (),
    split: str = "",
    out: Path | None = None,
    settings: Iterable[str] = (),
    force: bool = False,
    on_event: OnEvent = ignore,
) -> list[dict[str, Any]]:
    """Score a run, a model folder or a hub model on each data folder.

    Args:
        name: a run folder, a model folder, a sentence-transformers folder (texts only), or a hub name.
        data: work folders, folders of the STS sets in SentEval's layout, and at most one folder of ECCV Caption's
            ground truth, which then serves the work folders.
        tasks: which; all that the data allow when empty, `all` for every one there is. One whose data are missing says
            so, and the others go on.
        split: of the work folders; a run's own test split, else `test`, when empty.
        out: where the results go; `eval` in the run's folder (a folder of its own there for other data than the run's),
            or `eval/NAME` in the work folder. Results on STS of what is no run are kept only if this is given.
        settings: `key=value` of `cusa.eval.config.EvalConfig`.
        force: score again.
        on_event: hears of every batch.

    Returns:
        For each data folder what its `metrics.json` holds, with `out` (null where nothing is kept) and `fresh`.

    Raises:
        ConfigError: if there is no such task.
        DataError: if the model or the split is not there, or a folder is none of those above.
    """
    from cusa.eval import eccv, evaluate_sts
    from cusa.eval.tasks import TASKS

    known = [*TASKS, STS]
    chosen = list(known) if "all" in tasks else list(dict.fromkeys(tasks))
    for task in chosen:
        if task not in known:
            raise ConfigError(f"There is no task {task!r}. {nearest(task, [*known, 'all'])}.", task=task)
    kinds: dict[str, list[Path]] = {"work": [], "sts": [], "truth": []}
    for folder in data:
        kinds[_kind_of(folder, eccv.is_ground_truth, evaluate_sts.is_layout)].append(folder)
    if len(kinds["truth"]) > 1 or (kinds["truth"] and not kinds["work"]):
        raise ConfigError(
            f"{kinds['truth'][-1]} is a ground truth of COCO's test split: give one, and the work folder it is for "
            "with --data as well.",
            data=kinds["truth"],
        )
    asked = {"work": [task for task in chosen if task != STS], "sts": [task for task in chosen if task == STS]}
    for kind, what in (("work", "a work folder"), ("sts", "the folder of the STS sets")):
        if asked[kind] and not kinds[kind] and "all" not in tasks:
            raise ConfigError(f"--tasks {asked[kind][0]} needs {what}: give it with --data.", task=asked[kind][0])
    folders = [(kind, folder) for kind in asked for folder in kinds[kind] if asked[kind] or not chosen]
    results = []
    for kind, folder in folders:
        place = out if out is None or len(folders) == 1 else out / folder.resolve().name
        if kind == "sts":
            found = _evaluate_sts(name, folder, place, settings, force, on_event)
        else:
            truth = kinds["truth"][0] if kinds["truth"] else None
            found = _evaluate_work(name, folder, asked["work"], truth, split, place, settings, force, on_event)
        results.append(found)
    return results


def _kind_of(folder: Path, is_truth: Callable[[Path], bool], is_sts: Callable[[Path], bool]) -> str:
    """Tell what a data folder is.

    Raises:
        DataError: if it is nothing that can be evaluated on.
    """
    if any(folder.glob("*/samples.parquet")):
        return "work"
    if is_truth(folder):
        return "truth"
    if is_sts(folder):
        return "sts"
    what = "is nothing to evaluate on" if folder.is_dir() else "does not exist"
    raise DataError(
        f"{folder} {what}. Give a work folder (`cusa shard` makes one), the folder above STS/STS12-en-test and SICK, "
        "or ECCV Caption's ground truth.",
        path=folder,
    )


def _evaluate_work(
    name: str,
    work: Path,
    tasks: Sequence[str],
    truth: Path | None,
    split: str,
    out: Path | None,
    settings: Iterable[str],
    force: bool,
    on_event: OnEvent,
) -> dict[str, Any]:
    from cusa.eval import evaluate as stage
    from cusa.models.teachers import teacher_name

    if _is_text_encoder(name):
        raise ConfigError(f"{name} embeds texts only; a work folder needs a student. Give --tasks sts.", name=name)
    run = _run_of(name)
    config, digest, own = _scored_by(name, run, settings)
    if run is not None:
        split = split or own.get("data", {}).get("test", "")
        here = _trained_on(run, own, work)
        out = out or (run / "eval" if here else run / "eval" / work.resolve().name)
    else:
        out = out or work / "eval" / teacher_name(name)

    def load() -> "Student":
        from cusa.models import student

        return student.load(name)

    result = stage.run(
        config,
        load=load,
        student_digest=digest,
        split=Split(work, split or "test"),
        out=out,
        tasks=tasks,
        ground_truth=truth,
        force=force,
        on_event=on_event,
    )
    return {**result, "data": str(work), "out": str(out)}


def _evaluate_sts(
    name: str, folder: Path, out: Path | None, settings: Iterable[str], force: bool, on_event: OnEvent
) -> dict[str, Any]:
    from cusa.eval import evaluate_sts as stage

    run = _run_of(name)
    config, digest, _ = _scored_by(name, run, settings)
    out = out or (run / "eval" / STS if run is not None else None)

    def load() -> tuple[str, str, Callable[[Sequence[str]], Any]]:
        if _is_text_encoder(name):
            from cusa.models.sentence import SentenceTeacher

            teacher = SentenceTeacher(name, device=config.device, batch_size=config.batch_size)
            return teacher.name, "the model's own", teacher.encode
        from cusa.eval.encode import text_encoder
        from cusa.models import student

        model = student.load(name)
        space, words = model.space_of("uni-modal")
        return model.name, words, text_encoder(model, config, space)

    result = stage.run(config, load=load, encoder_digest=digest, folder=folder, out=out, force=force, on_event=on_event)
    return {**result, "data": str(folder), "out": None if out is None else str(out)}


def _trained_on(run: Path, own: Mapping[str, Any], work: Path) -> bool:
    """Tell whether a work folder is the run's own: by its place, or, where one of them moved, by its content."""
    told = run / "run.json"
    if not told.is_file() or Path(store.read_json(told)["data"]) == work.resolve():
        return True
    book, train = ledger.read(run / "ledger.json"), own.get("data", {}).get("train", "train")
    if book is None or train not in splits(work):
        return False
    return Split(work, train).digest == book.inputs.get("the training split")


def _run_of(name: str) -> Path | None:
    """Return the run folder that a name is, or None.

    Raises:
        DataError: if the run has no model yet.
    """
    run = Path(name)
    if not (run / "recipe.json").is_file():
        return None
    if not (run / "model").is_dir():
        raise DataError(
            f"{run} has no model yet: its training has not come to its first validation. Run `cusa train` again.",
            path=run,
        )
    return run


def _scored_by(name: str, run: Path | None, settings: Iterable[str]) -> tuple[EvalConfig, str, Mapping[str, Any]]:
    """Return the configuration, the digest of what is scored, and the run's recipe."""
    if run is not None:
        own = store.read_json(run / "recipe.json")
        config = recipes.section(EvalConfig, settings, base=own.get("eval", {}))
        return config, store.sha256_folder(run / "model"), own
    folder = Path(name).expanduser()
    digest = store.sha256_folder(folder) if folder.is_dir() else store.sha256_file(folder) if folder.is_file() else name
    return recipes.section(EvalConfig, settings), digest, {}


def _is_text_encoder(name: str) -> bool:
    return (Path(name).expanduser() / "modules.json").is_file()


def figures(results: Iterable[Mapping[str, Any]], work: Path) -> dict[str, float]:
    """Return every number of an evaluation by name: TASK/METRIC on the work folder and STS, else DATA SET/TASK/METRIC.

    Args:
        results: what `evaluate` returned.
        work: the work folder whose tasks go without its data set's name.
    """
    found: dict[str, float] = {}
    for result in results:
        own = "pairs" in result or Path(result["data"]) == work
        for task, told in result["tasks"].items():
            start = task if own else f"{result['dataset']}/{task}"
            numbers = told.get("metrics", {})
            found |= {f"{start}/{name}": value for name, value in numbers.items() if value is not None}
    return found
