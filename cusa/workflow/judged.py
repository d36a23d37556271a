"""Two runs under every true match: each evaluated if it is not yet, then compared by what people judged."""

from pathlib import Path
from typing import Any

from cusa.errors import ConfigError
from cusa.eval.judged import Rivals, draw, run
from cusa.eval.judged.rankings import TASK
from cusa.manifests import ledger
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements.eval_sample import sample_path
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome
from cusa.workflow import evaluate as scoring
from cusa.workflow.evaluated.data import result_names
from cusa.workflow.evaluated.model import open_model


def compare(
    names: tuple[str, str], work: Path, *, split: str = "", force: bool = False, on_event: OnEvent = ignore
) -> tuple[Outcome, dict[str, Any], Path]:
    """Compare two runs under every true match.

    Args:
        names: of the runs, as `cusa eval` takes them.
        work: the work folder.
        split: the runs' test split if empty.
        force: compute again even if nothing changed; the drawn order of questions stays.
        on_event: called while a run is evaluated.

    Returns:
        The outcome, what `scores.json` holds, and its folder.

    Raises:
        ConfigError: if both are one run.
        DataError: if a run cannot be evaluated, or the split was not audited.
    """
    rivals = _rivals(names, work, split, on_event)
    outcome, result = run(rivals, force=force)
    return outcome, result, rivals.folder


def prepare(
    names: tuple[str, str], work: Path, *, split: str = "", scores: str = "r@1", on_event: OnEvent = ignore
) -> tuple[str, Path]:
    """Draw the pairs that people are asked about so that two runs can be compared.

    Args:
        names: of the runs, as `cusa eval` takes them.
        work: the work folder.
        split: the runs' test split if empty.
        scores: `r@1`, or `at-r`.
        on_event: called while a run is evaluated.

    Returns:
        The split's name, and the table of the pairs (`schemas.JUDGED_SAMPLE`).

    Raises:
        ConfigError: if there is no such sample.
        DataError: if a run cannot be evaluated, or the split was not audited.
    """
    sample_path(Path(), scores)
    rivals = _rivals(names, work, split, on_event)
    draw(rivals)
    return rivals.split.name, sample_path(rivals.folder, scores)


def _rivals(names: tuple[str, str], work: Path, split: str, on_event: OnEvent) -> Rivals:
    folders = [Path(name).expanduser() for name in names]
    if folders[0].resolve() == folders[1].resolve():
        raise ConfigError(f"{names[0]} is compared with itself. Name two runs.", runs=list(names))
    paths = []
    for name in names:
        split, path = _evaluated(name, work, split, on_event)
        paths.append(path)
    labels = result_names(folders)
    return Rivals(Split(work, split), (labels[0], labels[1]), (paths[0], paths[1]))


def _evaluated(name: str, work: Path, split: str, on_event: OnEvent) -> tuple[str, Path]:
    """Return the split and the ranking of a run; it is evaluated if there is none of this model on this split."""
    model = open_model(name, ())
    split, out = scoring.place_of_results(model, work, split)
    written = ledger.read(out / "ledger.json")
    wanted = {"student": model.digest, "split": Split(work, split).digest}
    current = (
        written is not None
        and wanted.items() <= written.inputs.items()
        and TASK in written.parameters.get("tasks", ())
        and (out / "per_query.parquet").is_file()
    )
    if not current:
        scoring.evaluate(name, scoring.EvalRequest(data=[work], split=split), on_event=on_event)
    return split, out / "per_query.parquet"
