"""What is known of evaluated runs: read from their folders, and put into words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cusa.errors import DataError
from cusa.eval.config import RETRIEVAL_PROTOCOL, STS_PROTOCOL
from cusa.eval.tasks import metrics as table
from cusa.eval.tasks import registry
from cusa.manifests import ledger, schemas
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import without_folders
from cusa.manifests.words import mixture

_NAMED = 3  # runs that a title names


@dataclass(frozen=True)
class Run:
    """All that is known of a run.

    Attributes:
        evaluated: the ledger of its evaluation: digests of split and known matches, K, versions.
        everything: this and every other evaluation of the run, by the current protocols.
        left_out: evaluations by other protocols, in words.
        changes: keys of the recipe that the run was given other values of: `key`, `recipe`, `set`.
        mixture: the data sets it was trained on with their shares, in words; empty where it was one split.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    result: Mapping[str, Any]
    per_query: pa.Table
    metrics: pa.Table | None
    evaluated: ledger.Ledger
    everything: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[str] = ()
    changes: Sequence[Mapping[str, str]] = ()
    mixture: str = ""

    @property
    def ks(self) -> tuple[int, ...]:
        """The K of its R@K."""
        return tuple(self.evaluated.parameters["ks"])


def read(folder: Path) -> Run:
    """Read a run's recipe, metrics and results.

    Raises:
        DataError: if it was not evaluated, or not to the end, or a file was changed after it was written.
    """
    result = folder / "eval" / "metrics.json"
    if not result.is_file():
        raise DataError(f"{folder} was not evaluated. Run `cusa eval {folder} --data WORK`.", path=folder)
    evaluated = ledger.read(folder / "eval" / "ledger.json")
    if evaluated is None:
        raise DataError(f"The evaluation of {folder} did not finish. Run `cusa eval {folder}` again.", path=folder)
    metrics = folder / "metrics.parquet"
    refuse_changed(folder)
    everything, left_out = _evaluations(folder / "eval")
    return Run(
        folder,
        folder.resolve().name,
        store.read_json(folder / "recipe.json") if (folder / "recipe.json").is_file() else {},
        store.read_json(result),
        store.read_table(folder / "eval" / "per_query.parquet", columns=schemas.PER_QUERY.names, made_by="cusa eval"),
        store.read_table(metrics, columns=schemas.METRICS.names) if metrics.is_file() else None,
        evaluated,
        everything,
        left_out,
        _changes(folder / "run.json"),
        _mixture(folder / "run.json"),
    )


def _changes(path: Path) -> list[dict[str, str]]:
    """Return what a run's `run.json` says was changed of its recipe; nothing where there is none.

    Raises:
        DataError: if the file is not what training writes.
    """
    if not path.is_file():
        return []
    try:
        changes = store.read_json(path).get("changes", [])
        return [{name: str(one[name]) for name in ("key", "recipe", "set")} for one in changes]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not what `cusa train` writes ({error!r}). Train again.", path=path) from error


def _mixture(path: Path) -> str:
    """Return what a run's `run.json` says of several data sets; raises as `_changes` does."""
    if not path.is_file():
        return ""
    try:
        return mixture(store.read_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not what `cusa train` writes ({error!r}). Train again.", path=path) from error


def refuse_changed(folder: Path) -> None:
    """Refuse a run whose recipe, metrics or results were changed after they were written.

    Raises:
        DataError: with the name of the file.
    """
    ledger.refuse_changed(folder / "ledger.json", ("recipe.json", "run.json", "metrics.parquet"))
    ledger.refuse_changed(folder / "eval" / "ledger.json")


def _evaluations(folder: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return every evaluation that was finished, and those by another protocol than this version's, in words."""
    finished: list[Mapping[str, Any]] = []
    left_out = []
    for path in (folder / "metrics.json", *sorted(folder.glob("*/metrics.json"))):
        if not path.is_file() or not (path.parent / "ledger.json").is_file():
            continue
        ledger.refuse_changed(path.parent / "ledger.json", (path.name,))
        result = store.read_json(path)
        wanted = STS_PROTOCOL if "pairs" in result else RETRIEVAL_PROTOCOL
        if result.get("protocol") == wanted:
            finished.append(result)
        else:
            left_out.append(f"{result.get('dataset')} by protocol {result.get('protocol')}, this version's is {wanted}")
    return finished, left_out


def same_split(runs: Sequence[Run]) -> None:
    """Refuse runs whose numbers do not compare.

    Raises:
        DataError: if they were evaluated on different splits, known matches or K, or by different protocols.
    """
    first = _conditions(runs[0])
    for other in runs[1:]:
        theirs = _conditions(other)
        differ = [name for name in first if first[name] != theirs[name]]
        if differ:
            raise DataError(
                f"{other.folder} was evaluated on {_in_words(theirs, differ)} and {runs[0].folder} on "
                f"{_in_words(first, differ)}: their numbers do not compare. Evaluate both on the same split, the same "
                "way, with `cusa eval`, or report them apart.",
                path=other.folder,
            )


def _conditions(run: Run) -> dict[str, Any]:
    """Return everything that must be equal for numbers to compare; a name and counts do not tell data apart."""
    facts = {name: run.result.get(name) for name in ("dataset", "split", "images", "captions", "protocol")}
    content = {"content of the split": "split", "known matches": "truth"}
    return {**facts, "K": run.ks, **{words: run.evaluated.inputs.get(name) for words, name in content.items()}}


def _in_words(conditions: Mapping[str, Any], names: Sequence[str]) -> str:
    digests = ("content of the split", "known matches")
    return ", ".join(f"{name} {str(conditions[name])[:12] if name in digests else conditions[name]}" for name in names)


def title(runs: Sequence[Run]) -> str:
    """Return the report's title in plain words."""
    result = runs[0].result
    names = " against ".join(run.name for run in runs)
    if len(runs) > _NAMED:
        names = f"{runs[0].name} against {len(runs) - 1} other runs"
    return f"{names} on {result['dataset']} {result['split']}"


def value_of(run: Run, task: str, metric: str) -> float | None:
    """Return one number of a run; None where it has none."""
    value = run.result["tasks"].get(task, {}).get("metrics", {}).get(metric)
    return None if value is None or math.isnan(value) else value


def settings(run: Run) -> dict[str, str]:
    """Return a run's settings and what it came to, as words by name."""
    loss, train = run.recipe.get("loss", {}), run.recipe.get("train", {})
    words = {"student": without_folders(str(run.result.get("student", "")))}
    training = ledger.read(run.folder / "ledger.json")
    if training is not None:
        if "parameters" in training.counts:
            words["student"] += f", {training.counts['parameters']:,} parameters"
        teachers = training.parameters.get("teachers", {})  # of several data sets a list, one for each
        every = [name for one in (teachers if isinstance(teachers, list) else [teachers]) for name in one.values()]
        words["teachers"] = ", ".join(without_folders(name) for name in dict.fromkeys(every) if name) or "none"
        steps, best = training.counts.get("steps", 0), training.counts.get("best_step", 0)
        words["steps"] = f"{steps:,}, best by validation: {best:,}"
    if run.mixture:
        words["trained on"] = run.mixture
    words["versions"] = _versions(training or run.evaluated)
    if loss:
        words |= _loss_settings(loss, train)
    return words


def _loss_settings(loss: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, str]:
    own = "sigmoid loss" if loss.get("contrast") == "sigmoid" else f"InfoNCE ({loss['reduction']})"
    weight = loss.get("infonce_weight", 1)
    terms = [own if weight == 1 else f"{weight:g} {own}"]
    terms += [f"{loss[key]:g} {name}" for key, name in (("alpha", "CSA"), ("beta", "USA")) if loss[key]]
    words = {"loss": " + ".join(terms) if len(terms) > 1 else f"{terms[0]} alone"}
    batch = train.get("batch", 0)
    words["batch"] = f"{batch:,} pairs"
    words |= _treatments(loss)
    if loss["alpha"] or loss["beta"]:
        scale = batch if loss["reduction"] == "release" else 1
        words["effective weights"] = f"{weight:g} : {loss['alpha'] * scale:g} : {loss['beta'] * scale:g}"
        words["temperature of the soft labels"] = f"{loss['teacher_image_temperature']['initial']:g}"
        words["student temperatures at the start"] = (
            f"CSA {loss['csa_image_temperature']['initial']:g}, USA {loss['usa_image_temperature']['initial']:g}"
        )
    words["seed"] = str(train.get("seed", ""))
    return words


def _treatments(loss: Mapping[str, Any]) -> dict[str, str]:
    """Return what a loss does about false negatives besides soft labels."""
    words = {}
    if loss.get("false_negatives") == "mask":
        limits = [f"{name} {loss[key]}" for name, key in (("image", "mask_image"), ("text", "mask_text")) if loss[key]]
        margin = f", margin {loss['mask_margin']:g}" if loss.get("mask_margin") else ""
        words["false negatives"] = f"near pairs leave the denominators ({', '.join(limits)}{margin})"
    elif loss.get("false_negatives") == "hardness":
        words["false negatives"] = f"hardness {loss['hardness']:g}, prior {loss['hardness_prior']:g}"
    elif loss.get("false_negatives") == "thresholds":
        words["false negatives"] = f"the nearest {loss['threshold_share']:.2g} leave, by thresholds of each item"
    elif loss.get("false_negatives") == "positive":
        words["false negatives"] = "by people's verdicts"
    if loss.get("label_smoothing"):
        words["label smoothing"] = f"{loss['label_smoothing']:g}"
    if loss.get("pair_weights", "none") != "none":
        words["weights of the pairs"] = f"by the {loss['pair_weights']}"
    return words


def _versions(record: ledger.Ledger) -> str:
    wanted = ("cusa", "python", "torch", "transformers")
    return ", ".join(f"{name} {record.versions[name]}" for name in wanted if name in record.versions)


def metrics_of(runs: Sequence[Run]) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Give each task that has metrics, with each metric's name and its path among the differences."""
    for task in dict.fromkeys(task for run in runs for task in run.result["tasks"]):
        names = {name for run in runs for name in run.result["tasks"].get(task, {}).get("metrics", {})}
        if names:
            ordered = sorted(names, key=lambda name: table.named(name).place)
            yield task, [(name, difference_path(task, name)) for name in ordered]


def difference_path(task: str, metric: str) -> str:
    """Return where a number stands among the differences of `compare.paired`."""
    rows = registry.table(task)
    return f"{task}/{metric}" if rows == task else f"{rows}/{task}/{metric}"


def cell(value: float | None) -> str:
    """Return a number with two decimals; empty for none."""
    return "" if value is None else f"{value:.2f}"
