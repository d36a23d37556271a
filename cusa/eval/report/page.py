"""The report's values, section by section: what the HTML page and the Markdown both show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cusa.eval.report import audit, card, cases, charts, loop, map, overview, paper_tables, results, sweep
from cusa.eval.report.compare import Difference
from cusa.eval.report.pictures import Pictures
from cusa.eval.report.runs import Run, title
from cusa.eval.report.teachers import probe
from cusa.eval.tasks import definitions
from cusa.manifests.pages import Table
from cusa.manifests.samples import Split


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: what the contents link to.
        title: its heading.
        template: draws it.
    """

    anchor: str
    title: str
    template: str


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    Attributes:
        title: names the runs, the data set and the split.
        images: of the evaluated split.
        captions: of the evaluated split.
        split: its name.
        ties: the rule for equal scores, in words.
        overview: the headline figures, and what each run was.
        results: every metric of every run.
        card: the last run's answers by every truth; None where one truth alone is known.
        curves: of the trainings; empty where none is known.
        cases: queries and answers; None without a work folder, like `maps` and `audit`.
        maps: of the embeddings; None also where none were kept.
        audit: None also where the split was not audited.
        probes: what text teachers cannot tell apart; empty where none was probed.
        loops: what training on verdicts gained.
        sweep: None where no sweep is reported.
        paper: our numbers beside the published ones.
        definitions: of every metric that the page shows.
        stages: time and memory of each stage.
    """

    title: str
    images: int
    captions: int
    split: str
    ties: str
    overview: overview.Overview
    results: results.Results
    card: card.ScoreCard | None
    curves: Sequence[charts.Chart | None]
    cases: cases.Cases | None
    maps: map.Maps | None
    audit: audit.Audit | None
    probes: Sequence[probe.ProbeCard]
    loops: Sequence[loop.VerdictLoop]
    sweep: sweep.Sweep | None
    paper: paper_tables.PaperTables
    definitions: Sequence[definitions.Definition]
    stages: Table

    @property
    def sections(self) -> list[Section]:
        """The sections that have something to show, in the page's order."""
        here = "eval/report/"
        every = (
            (True, "settings", "What ran", "overview"),
            (True, "results", "Results", "results"),
            (self.card, "truths", "The same answers, judged by every truth", "card"),
            (self.sweep, "sweep", "The sweep: cross-modal against uni-modal quality", "sweep"),
            (any(self.curves), "training", "Training", "curves"),
            (self.cases, "cases", "Case studies", "cases"),
            (self.maps, "maps", "Maps of the embeddings", "map"),
            (self.audit, "audit", "The audit: candidate false negatives", "audit"),
            (self.probes, "teachers", "What the text teachers cannot tell apart", "teachers/probe"),
            (self.loops, "verdicts", "Trained on verdicts", "loop"),
            (True, "published", "Beside the published figures", "paper_tables"),
            (True, "definitions", "What the numbers mean", "definitions"),
            (self.stages.rows, "time", "Time and memory", "stages"),
        )
        return [Section(anchor, title, f"{here}{name}.html.j2") for there, anchor, title, name in every if there]


def gather(
    runs: Sequence[Run],
    differences: Sequence[Mapping[str, Difference]],
    split: Split | None,
    *,
    stages: Table,
    settings: Sequence[sweep.Setting] = (),
) -> Report:
    """Return all that a report shows.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it, by path.
        split: for pictures, captions and the audit; None leaves them out.
        stages: time and memory of each stage.
        settings: of a sweep.

    Raises:
        DataError: if a picture does not decode, or a file of the audit is broken.
    """
    result = runs[0].result
    pictures = Pictures(split) if split is not None else None
    return Report(
        title=title(runs),
        images=result["images"],
        captions=result["captions"],
        split=result["split"],
        ties=result["ties"],
        overview=overview.gather(runs, differences),
        results=results.gather(runs, differences),
        card=card.gather(runs[-1], pictures),
        curves=_curves(runs),
        cases=cases.gather(runs, split, pictures) if split is not None and pictures is not None else None,
        maps=map.gather(runs, split) if split is not None else None,
        audit=audit.gather(split) if split is not None else None,
        probes=probe.gather(split) if split is not None else [],
        loops=loop.gather(split.work) if split is not None else [],
        sweep=sweep.gather(settings),
        paper=paper_tables.gather(runs),
        definitions=definitions.of(_shown(runs, settings)),
        stages=stages,
    )


def _shown(runs: Sequence[Run], settings: Sequence[sweep.Setting]) -> set[str]:
    """Return the names of the metrics that the page shows."""
    every = (summary.get("metrics", {}) for run in runs for summary in run.result["tasks"].values())
    return {*(name for metrics in every for name in metrics), *(path for one in settings for path in one.values)}


_CURVES = (
    ("InfoNCE", "infonce"),
    ("Sigmoid loss", "sigmoid"),
    ("Validation RSUM", "val.rsum"),
    ("CSA (weighted)", "csa"),
    ("USA (weighted)", "usa"),
    ("InfoNCE's temperature", "temperature.infonce"),
    ("Entropy of the image soft labels (1 = uniform)", "target_entropy.image"),
    ("Entropy of the text soft labels (1 = uniform)", "target_entropy.text"),
    ("Pairs per second", "samples_per_second"),
)
"""Title and name among a run's metrics."""


def _curves(runs: Sequence[Run]) -> list[charts.Chart | None]:
    trained = [run for run in runs if run.metrics is not None]
    if not trained:
        return []
    drawn = []
    for heading, name in _CURVES:
        # A run without the term keeps its place, so that each run has one colour in all charts.
        series = {run.name: _points(run, name) for run in trained}
        if name == "infonce":
            series = {run.name: _textbook_scale(run, series[run.name]) for run in trained}
        drawn.append(charts.line_chart(heading, series))
    return drawn


def _points(run: Run, name: str) -> list[tuple[float, float]]:
    assert run.metrics is not None
    rows = zip(*(run.metrics[column].to_pylist() for column in ("step", "name", "value")), strict=True)
    points = [(step, value) for step, metric, value in rows if metric == name]
    return points if any(value for _, value in points) else []


def _textbook_scale(run: Run, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bring InfoNCE to the textbook's scale, so that both reductions share an axis."""
    loss, train = run.recipe.get("loss", {}), run.recipe.get("train", {})
    scale = train.get("batch", 1) if loss.get("reduction") == "release" else 1
    return [(step, value * scale / (loss.get("infonce_weight") or 1)) for step, value in points]
