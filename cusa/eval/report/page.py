"""The report as HTML: cards, tables, curves, examples with pictures, the audit's best candidates."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from html import escape

import numpy as np
import pyarrow.compute as pc

from cusa.eval.report import (
    audit as report_audit,
)
from cusa.eval.report import (
    card as report_card,
)
from cusa.eval.report import (
    charts,
    compare,
)
from cusa.eval.report import (
    map as report_map,
)
from cusa.eval.report import (
    paper_tables as report_paper,
)
from cusa.eval.report import (
    sweep as report_sweep,
)
from cusa.eval.report.runs import METRIC_WORDS, Run, cell, metric_words, metrics_of, settings, title, value_of
from cusa.manifests import page
from cusa.manifests.keys import split_caption_key
from cusa.manifests.samples import Split

Differences = Mapping[str, compare.Difference]
"""Task, direction and metric -> how much higher a run is than the first."""
_EXAMPLES = 6


def body(
    runs: Sequence[Run],
    differences: Sequence[Differences],
    split: Split | None,
    stages: list[list[str]],
    sweep: Sequence[report_sweep.Setting] = (),
) -> Iterable[str]:
    """Give the page's body piece by piece, everything escaped.

    Args:
        runs: the first is the baseline.
        differences: of each other run to it.
        split: for pictures, captions and the audit; None leaves them out.
        stages: rows of stage, place, seconds, peak memory, pace, end.
        sweep: the settings of a sweep, where one is told of.
    """
    result = runs[0].result
    pictures = _Pictures(split) if split is not None else None
    yield f"<h1>{escape(title(runs))}</h1>"
    yield (
        f'<p class="soft">{result["images"]:,} images and {result["captions"]:,} captions of the '
        f"{escape(result['split'])} split. Rule for ties: {escape(result['ties'])}.</p>"
    )
    yield _cards(runs, differences)
    yield "<h2>What ran</h2>" + _what_ran(runs)
    yield "<h2>Results</h2>"
    if len(runs) > 1:
        yield (
            "<p>Values in percent. Differences are to the first run, with 95 % intervals over resampled test images "
            "(2,000 resamples, captions move with their image). They say how the difference would vary with other test "
            "images; another training seed can move it further.</p>"
        )
    yield _results(runs, differences)
    yield from _remarks(runs)
    yield from report_card.section(runs[-1], pictures.uri if pictures else None, pictures.words if pictures else {})
    yield from _curves(runs)
    if split is not None and pictures is not None:
        yield from _examples(runs, split, pictures)
        yield from report_map.section(runs, split)
        yield from report_audit.section(split)
    if sweep:
        yield from report_sweep.section(sweep)
    yield from report_paper.section(runs)
    yield "<h2>Time and memory</h2>"
    yield page.table(("stage", "on", "seconds", "peak memory", "pace", "finished"), stages, words=(1,))
    yield "<footer><p>Written by cusa. Method: Huang, Nie, Wang, Shang: Cross-Modal and Uni-Modal Soft-Label Alignment "
    yield "for Image-Text Retrieval, AAAI 2024, doi 10.1609/aaai.v38i16.29789.</p></footer>"


class _Pictures:
    """A split's pictures as data URIs, and its captions, by key."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._row = {key: row for row, key in enumerate(split.image_keys)}
        self.words = dict(zip(split.caption_keys, split.texts, strict=True))

    def uri(self, key: str) -> str:
        from cusa.models.preprocess import decode_rgb

        return page.thumbnail(decode_rgb(self._split.image_bytes(self._row[key])))


def _remarks(runs: Sequence[Run]) -> Iterable[str]:
    told = [(run.name, words) for run in runs for words in run.result.get("remarks", ())]
    if told:
        items = "".join(f"<li><b>{escape(name)}</b>: {escape(words)}</li>" for name, words in told)
        yield f'<ul class="small soft">{items}</ul>'


def _cards(runs: Sequence[Run], differences: Sequence[Differences]) -> str:
    wanted = (
        ("cross-modal", "rsum", "cross-modal/rsum", "RSUM"),
        ("cross-modal-truth", "image-to-text/r_precision", None, "R-Precision, image to text, all true matches"),
        ("cross-modal-truth", "text-to-image/r_precision", None, "R-Precision, text to image, all true matches"),
        ("image-to-image", "r_precision", "uni-modal/image-to-image/r_precision", "R-Precision, image to image"),
        ("text-to-text", "r_precision", "uni-modal/text-to-text/r_precision", "R-Precision, text to text"),
    )
    cards = []
    for task, metric, path, label in wanted:
        last = value_of(runs[-1], task, metric)
        if last is None:
            continue
        note = ""
        difference = differences[-1].get(path or f"{task}/{metric}") if differences else None
        if difference is not None:
            side = "up" if difference.low > 0 else "down" if difference.high < 0 else ""
            note = (
                f'<div class="note"><span class="{side}">{difference.value:+.2f}</span> against {escape(runs[0].name)} '
                f"({difference.low:+.2f} to {difference.high:+.2f})</div>"
            )
        cards.append(
            f'<div class="card"><div class="label">{escape(label)}</div><div class="big">{last:.1f}</div>{note}</div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _what_ran(runs: Sequence[Run]) -> str:
    told = [settings(run) for run in runs]
    names = dict.fromkeys(name for found in told for name in found)
    rows = [[escape(name), *(escape(found.get(name, "")) for found in told)] for name in names]
    notes = [
        f"<p><b>{escape(run.name)}.</b> {escape(run.recipe['description'])}</p>"
        for run in runs
        if run.recipe.get("description")
    ]
    header = ["", *(run.name for run in runs)]
    return "".join(notes) + page.table(header, rows, words=range(1, len(header))) + _literal(runs)


def _literal(runs: Sequence[Run]) -> str:
    """Say how a run's loss relates to the paper's, read literally."""
    for run in runs:
        loss = run.recipe.get("loss", {})
        if not (loss.get("alpha") or loss.get("beta")):
            continue
        sharp = loss["teacher_image_temperature"]["initial"]
        same = loss["reduction"] == "standard" and (loss["alpha"], loss["beta"], sharp) == (0.1, 0.5, 1.0)
        if same:
            return "<p class='small soft'>This is the paper's setting for CLIP, read literally.</p>"
        return (
            f"<p class='small soft'>The paper's setting for CLIP, read literally, is the textbook InfoNCE + 0.1 CSA + "
            f"0.5 USA with soft labels at temperature 1 and student temperatures from 0.45. {escape(run.name)} uses "
            f"{loss['alpha']:g} and {loss['beta']:g} with soft labels at temperature {sharp:g}: at 1 the soft labels "
            "of cosines are almost uniform and, next to a textbook InfoNCE, hardly felt. The authors' released code "
            "divides InfoNCE by the batch size, which makes them felt in another way.</p>"
        )
    return ""


def _results(runs: Sequence[Run], differences: Sequence[Differences]) -> str:
    header = ["metric", *(run.name for run in runs), *(f"{run.name} minus {runs[0].name}" for run in runs[1:])]
    rows: list[list[str]] = []
    for task, name, path in metrics_of(runs):
        if not name:
            found = next(run.result["tasks"][task] for run in runs if task in run.result["tasks"])
            spaces = " / ".join(dict.fromkeys(str(run.result["tasks"].get(task, {}).get("space", "?")) for run in runs))
            rows.append(
                [
                    f"{escape(METRIC_WORDS.get(task, task))}<br>"
                    f"<span class='small soft plain'>{escape(found['protocol'])}. "
                    f"Space: {escape(spaces)}. {found['queries']:,} queries.</span>"
                ]
            )
            continue
        cells = [cell(value_of(run, task, name)) for run in runs]
        cells += [_difference_cell(difference.get(path)) for difference in differences]
        rows.append([escape(metric_words(name)), *cells])
    return page.table(header, rows)


def _difference_cell(difference: compare.Difference | None) -> str:
    if difference is None:
        return ""
    side = "up" if difference.low > 0 else "down" if difference.high < 0 else "soft"
    return (
        f'<span class="{side}">{difference.value:+.2f}</span> '
        f'<span class="small soft">({difference.low:+.2f} to {difference.high:+.2f})</span>'
    )


def _curves(runs: Sequence[Run]) -> Iterable[str]:
    known = [run for run in runs if run.metrics is not None]
    if not known:
        return
    wanted = (
        ("InfoNCE", "infonce"),
        ("Validation RSUM", "val.rsum"),
        ("CSA (weighted)", "csa"),
        ("USA (weighted)", "usa"),
        ("InfoNCE's temperature", "temperature.infonce"),
        ("Entropy of the image soft labels (1 = uniform)", "target_entropy.image"),
        ("Entropy of the text soft labels (1 = uniform)", "target_entropy.text"),
        ("Pairs per second", "samples_per_second"),
    )
    drawn = []
    for heading, name in wanted:
        # A run without the term keeps its place, so that each run has one colour in all charts.
        series = {run.name: _points(run, name) for run in known}
        if name == "infonce":
            series = {run.name: _unscaled(run, series[run.name]) for run in known}
        drawn.append(charts.line_chart(heading, series))
    yield "<h2>Training</h2><div class='charts'>" + "".join(drawn) + "</div>"


def _points(run: Run, name: str) -> list[tuple[float, float]]:
    assert run.metrics is not None
    rows = zip(*(run.metrics[column].to_pylist() for column in ("step", "name", "value")), strict=True)
    points = [(step, value) for step, metric, value in rows if metric == name]
    return points if any(value for _, value in points) else []


def _unscaled(run: Run, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bring InfoNCE to the textbook's scale, so that both reductions share an axis."""
    loss, train = run.recipe.get("loss", {}), run.recipe.get("train", {})
    scale = train.get("batch", 1) if loss.get("reduction") == "release" else 1
    return [(step, value * scale / (loss.get("infonce_weight") or 1)) for step, value in points]


def _examples(runs: Sequence[Run], split: Split, pictures: "_Pictures") -> Iterable[str]:
    """Show queries that the runs answer differently, and some that they do not."""
    known = report_audit.known_matches(split)
    words, thumb = pictures.words, pictures.uri

    def kind(image: str, caption: str) -> str:
        if split_caption_key(caption)[0] == image:
            return "good"
        return "missed" if (image, caption) in known.pairs else "bad"

    half = "; half of them among those that the runs disagree on, known false negatives first" if len(runs) > 1 else ""
    yield f"<h2>Case studies</h2><p>Queries drawn at random{half}. "
    yield "<span class='badge good'>own pair</span> <span class='badge missed'>true, though the data set does not pair "
    yield "it</span>; the others are wrong" + ("" if known.complete else ", or true without anyone knowing") + ".</p>"
    for direction in ("text-to-image", "image-to-text"):
        answers = [_answers(run, direction) for run in runs]
        missed = {query for query, (_, top) in answers[-1].items() if _finds_missed(query, top[:5], kind)}
        chosen = _choose(answers, missed)
        yield f"<h3>{'Caption to images' if direction == 'text-to-image' else 'Image to captions'}</h3>"
        for query in chosen:
            columns = []
            for run, answer in zip(runs, answers, strict=True):
                rank, top = answer[query]
                head = f'<div class="small soft">{escape(run.name)}: own answer at rank {rank}</div>'
                if direction == "text-to-image":
                    cells = "".join(
                        f'<div class="{kind(key, query)}">{page.picture(thumb(key), key)}</div>' for key in top[:5]
                    )
                    columns.append(f'<div>{head}<div class="hits">{cells}</div></div>')
                else:
                    items = "".join(f'<li class="{kind(query, key)}">{escape(words[key])}</li>' for key in top[:5])
                    columns.append(f'<div>{head}<ol class="texts">{items}</ol></div>')
            if direction == "text-to-image":
                asked = f'<div class="say">“{escape(words[query])}”</div>'
            else:
                asked = f'<div class="asked">{page.picture(thumb(query), query)}</div>'
            yield f'<div class="query">{asked}<div class="answers">{"".join(columns)}</div></div>'


def _answers(run: Run, direction: str) -> dict[str, tuple[int, list[str]]]:
    rows = run.per_query.filter(
        pc.and_(
            pc.equal(run.per_query["task"], "cross-modal"),
            pc.equal(run.per_query["direction"], direction),
        )
    )
    columns = (rows[name].to_pylist() for name in ("query_key", "rank", "top_keys"))
    return {key: (rank, top) for key, rank, top in zip(*columns, strict=True)}


def _finds_missed(query: str, top: Sequence[str], kind: Callable[[str, str], str]) -> bool:
    """Tell whether a query's answers hold one that is true though the data set does not pair it."""
    is_caption = "#" in query
    return any((kind(key, query) if is_caption else kind(query, key)) == "missed" for key in top)


def _choose(answers: Sequence[Mapping[str, tuple[int, list[str]]]], first: Container[str]) -> list[str]:
    rng = np.random.default_rng(0)
    keys = [key for key in answers[0] if all(key in other for other in answers)]
    differ = [key for key in keys if len({other[key][0] == 1 for other in answers}) > 1]
    drawn = sorted(rng.permutation(differ).tolist(), key=lambda key: key not in first)  # stable: still at random
    chosen = drawn[: _EXAMPLES // 2]
    rest = [key for key in rng.permutation(keys) if key not in chosen]
    return [str(key) for key in [*chosen, *rest][:_EXAMPLES]]
