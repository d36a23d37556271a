"""A blend: every point measured and kept, the frontier drawn, one point exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cusa.errors import StoppedError
from cusa.eval.config import NOT_IN_THE_NUMBERS
from cusa.manifests import pages
from cusa.manifests.events import SILENT, Callbacks
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.manifests.words import counted
from cusa.models import features
from cusa.workflow.blend import grid as grids
from cusa.workflow.blend import page
from cusa.workflow.blend.measures import Measure, Measured, gather, of_results, texts_digest
from cusa.workflow.blend.parents import Parents
from cusa.workflow.blend.request import MODEL, BlendRequest

if TYPE_CHECKING:
    from cusa.models.students.base import Student
    from cusa.workflow.blend.interpolation import Blend

RESULTS = "blend.json"
PAGE = "blend.html"
_LAYOUT = 1  # raised when what is written of the same points changes


@dataclass(frozen=True)
class Blended:
    """What a blend came to."""

    outcome: Outcome
    result: Mapping[str, Any]
    """What `blend.json` holds."""
    work: Path
    """Work folder of the new task."""


def run(request: BlendRequest, *, callbacks: Callbacks = SILENT) -> Blended:
    """Measure the points between a base and a run, draw the frontier, and export the chosen point.

    Every point is an evaluation of its own in `points/`, kept by the digest of what its weights follow from: killed,
    the next call goes on with the points that are missing. Of the weights no more than one point is in memory, and only
    the chosen one is written.

    Args:
        request: between which models, at which points, measured on what.
        callbacks: called with every batch, with a sentence before each point, and asked whether to stop.

    Raises:
        ConfigError: for a grid, choice, guard or folder that says something impossible, before anything is loaded.
        DataError: if there is nothing between the two models, a guard guards nothing, or the folder holds something
            else.
        StoppedError: if it was asked to stop.
        BusyError: if another process writes there.
    """
    alphas, choice = request.points(), grids.parse_choice(request.choose)
    request.refuse_to_replace()
    parents = Parents.open(request)
    measured = gather(parents.model, request.data, request.split, request.guards, choice)
    config = parents.model.config
    inputs = {
        "base": parents.base_digest,
        "run": parents.model.digest,
        **{
            one.folder: store.digest(
                [
                    one.evidence.digests,
                    texts_digest(one, config),
                    features.digests(one.split, parents.model.features),
                ]
            )
            for one in measured
        },
    }
    parameters = {
        "layout": _LAYOUT,
        "points": list(alphas),
        "choose": request.choose,
        "tasks": {one.folder: list(one.tasks) for one in measured},
        **config.model_dump(mode="json", exclude=NOT_IN_THE_NUMBERS),
    }
    out = request.out
    stage = StageRun("blend", out / "ledger.json", inputs=inputs, parameters=parameters, force=request.force)
    if stage.up_to_date:
        return Blended(stage.reuse(), store.read_json(out / RESULTS), measured[0].split.work)
    with stage.begin():
        points = _Points(parents, measured, request, callbacks)
        rows = []
        for number, alpha in enumerate(alphas, 1):
            if callbacks.should_stop():
                raise StoppedError(f"Stopped after {counted(number - 1, 'point')}; run again to go on.")
            callbacks.on_message(f"{number} of {len(alphas)}: alpha {alpha:g}")
            rows.append(points.measure(alpha))
        result = _result(parents, rows, choice)
        result["notes"] += [one.left_out for one in measured if one.left_out]
        files = []
        if choice is not None:
            chosen = result["points"][result["chosen"]["point"]]
            points.export(chosen["alpha"], choice, request.model)
            files = store.files_below(request.model)
        elif request.holds_own_model:  # of an earlier choice
            store.remove_folder(request.model)
        store.write_json(out / RESULTS, result)
        store.write_text(out / PAGE, pages.render("workflow/blend/page.html.j2", report=page.gather(result)))
        counts = {"points": len(alphas), "measured_now": points.fresh}
        done = stage.finish(outputs=[out / RESULTS, out / PAGE, *files], counts=counts, notes=tuple(result["notes"]))
    return Blended(done, result, measured[0].split.work)


@dataclass(frozen=True)
class _Row:
    """One point's numbers, in the order of the measures."""

    alpha: float
    digest: str
    measures: Sequence[Measure]
    values: Sequence[float]
    intervals: Sequence[list[float] | None]


class _Points:
    """The points of a blend, each measured on every split; the models are loaded when a point is missing."""

    def __init__(
        self, parents: Parents, measured: Sequence[Measured], request: BlendRequest, callbacks: Callbacks
    ) -> None:
        self._parents = parents
        self._measured = measured
        self._request = request
        self._callbacks = callbacks
        self.fresh = 0

    @cached_property
    def _blend(self) -> "Blend":
        return self._parents.load()

    def measure(self, alpha: float) -> _Row:
        """Return a point's numbers, kept or computed now."""
        from cusa.eval import evaluate
        from cusa.eval.job import Job, ModelSource

        digest = self._parents.digest(alpha)
        source = ModelSource(lambda: self._blend.at(alpha), digest, features=self._parents.model.features)
        rows, fresh = [], False
        for one in self._measured:
            place = self._request.out / "points" / f"{alpha:.10g}" / one.folder
            job = Job(place, one.tasks, force=self._request.force)
            done = evaluate.run(
                self._parents.model.config, source, one.evidence, job, on_event=self._callbacks.on_event
            )
            fresh = fresh or done.outcome.fresh
            rows += of_results(one, done.result)
        self.fresh += fresh
        measures, values, intervals = zip(*rows, strict=True)
        return _Row(alpha, digest, measures, values, intervals)

    def export(self, alpha: float, choice: grids.Choice, folder: Path) -> None:
        """Write a point as a model folder, loaded again and compared."""
        from cusa.models import export

        student: Student = self._blend.at(alpha)
        identities = self._parents.identities
        blend = {**identities, "alpha": alpha, "chosen_by": choice.rule, "digest": self._parents.digest(alpha)}
        cast(Any, student).card = {**getattr(student, "card", {}), "blend": blend}
        facts = {"recipe": self._parents.model.recipe, "data": self._measured[0].split.work.resolve().name}
        export.run(student, "folder", folder, facts=facts)


def _result(parents: Parents, rows: Sequence[_Row], choice: grids.Choice | None) -> dict[str, Any]:
    """Return what `blend.json` holds."""
    measures = rows[0].measures
    values, alphas = [row.values for row in rows], [row.alpha for row in rows]
    front = grids.not_dominated(values)
    chosen = None if choice is None else choice.number(values, alphas)
    return {
        **parents.identities,
        "measures": [
            {
                "title": one.title,
                "data": one.data,
                "split": one.split,
                "task": one.task,
                "metric": one.metric,
                "new": one.is_new,
            }
            for one in measures
        ],
        "points": [
            {
                "alpha": row.alpha,
                "digest": row.digest,
                "values": [round(value, 4) for value in row.values],
                "intervals": list(row.intervals),
                "frontier": on_front,
            }
            for row, on_front in zip(rows, front, strict=True)
        ],
        "chosen": None
        if choice is None or chosen is None
        else {"point": chosen, "alpha": alphas[chosen], "rule": choice.rule, "model": MODEL},
        "notes": _notes(rows, chosen, choice),
    }


def _notes(rows: Sequence[_Row], chosen: int | None, choice: grids.Choice | None) -> list[str]:
    """Return in sentences what the chosen point gains and loses against both ends, where they were measured."""
    if chosen is None or choice is None:
        return ["No point was chosen, so no model was written: --choose 0.5, best or keep:1 writes one."]
    row = rows[chosen]
    notes = [f"Alpha {row.alpha:g} was chosen ({choice.rule})."]
    for end, words in ((0.0, "the base"), (1.0, "the run")):
        other = next((one for one in rows if one.alpha == end), None)
        if other is not None and other is not row:
            parts = [
                f"{value - of_end:+.1f} {measure.title}"
                for measure, value, of_end in zip(row.measures, row.values, other.values, strict=True)
            ]
            notes.append(f"Against {words}: {'; '.join(parts)}.")
    return notes
