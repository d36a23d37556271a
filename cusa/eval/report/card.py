"""The report's score card: one run's answers judged by every ground truth there is, and the verdicts that differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cusa.eval.report.pictures import Pictures
from cusa.eval.report.runs import Run, cell, value_of
from cusa.eval.tasks import definitions, metrics, registry
from cusa.manifests.pages import Table

TRUTHS = ("cross-modal", "coco-5k", "cxc", "eccv-caption", "audited", "cross-modal-truth")
"""Tasks that judge the same answers, from the data set's own pairs to everything that is known."""

_WAYS = ("image-to-text", "text-to-image")
_SHOWN = (
    *(f"{way}/r@1" for way in _WAYS),
    "rsum",
    *(f"{way}/{name}" for name in ("r_precision", "map_at_r") for way in _WAYS),
)
_EXAMPLES = 8


class Flip(NamedTuple):
    """A query whose first answer is wrong by the own pairs and right by other truths, or the other way round."""

    direction: str
    query: str
    answer: str
    right: tuple[str, ...]
    """Tasks that call it right."""
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class FlipView:
    """A query whose verdict differs, as the template shows it."""

    key: str
    """Of the image."""
    picture: str
    """A data URI."""
    caption: str
    asked_image: bool
    """Whether the query is the image."""
    badges: Sequence[tuple[str, str]]
    """Kind and words."""


@dataclass(frozen=True)
class ScoreCard:
    """The section's values.

    Attributes:
        run: the run's name.
        table: a row a truth, the first being `base`.
        base: the truth that the others are compared with.
        num_flips: queries whose verdict differs.
        flips: the first of them; empty where there are no pictures.
    """

    run: str
    table: Table
    base: str
    num_flips: int
    flips: Sequence[FlipView]


def verdicts(run: Run) -> dict[tuple[str, str], dict[str, tuple[bool, str]]]:
    """Return (direction, query) -> task -> whether the first answer is right, and which answer that was."""
    judged: dict[tuple[str, str], dict[str, tuple[bool, str]]] = {}
    names = ("task", "direction", "query_key", "rank", "positives", "top_keys")
    table = run.per_query.filter(pc.is_in(run.per_query["task"], value_set=pa.array(TRUTHS, pa.string())))
    for task, direction, query, rank, positives, top in zip(*(table[name].to_pylist() for name in names), strict=True):
        if positives and top:
            judged.setdefault((direction, query), {})[task] = (rank == 1, top[0])
    return judged


def flips(run: Run) -> list[Flip]:
    """Return the queries whose verdict differs between two truths that judge the same answer.

    A truth that ranks another gallery may have another first answer; it is not compared then.
    """
    turned = []
    for (direction, query), judged in verdicts(run).items():
        base = next((task for task in TRUTHS if task in judged), None)
        if base is None:
            continue
        answer = judged[base][1]
        right = tuple(task for task in TRUTHS if task in judged and judged[task] == (True, answer))
        wrong = tuple(task for task in TRUTHS if task in judged and judged[task] == (False, answer))
        if right and wrong:
            turned.append(Flip(direction, query, answer, right, wrong))
    return turned


def table(run: Run) -> Table:
    """Return the card: a row a truth, and how many verdicts it turns round."""
    tasks = [task for task in TRUTHS if value_of(run, task, "text-to-image/r@1") is not None]
    header = ["judged by", *map(_column, _SHOWN), "turned right", "turned wrong"]
    judged = verdicts(run)
    rows = []
    for task in tasks:
        cells = [cell(value_of(run, task, name)) for name in _SHOWN]
        turned = ["", ""]
        if task != tasks[0]:
            both = [one for one in judged.values() if task in one and tasks[0] in one]
            pairs = [(one[tasks[0]][0], one[task][0]) for one in both if one[task][1] == one[tasks[0]][1]]
            turned = [f"{pairs.count((False, True)):,} of {len(pairs):,}", f"{pairs.count((True, False)):,}"]
        rows.append([registry.title(task), *cells, *turned])
    return Table(header, rows, terms={at: definitions.term(name, header[at]) for at, name in enumerate(_SHOWN, 1)})


def _column(name: str) -> str:
    one = metrics.named(name)
    return f"{metrics.DIRECTIONS[one.direction][0]} {one.title}" if one.direction else one.title


def gather(run: Run, pictures: Pictures | None) -> ScoreCard | None:
    """Return the section's values; None where one truth alone is known.

    Args:
        run: the last of the report.
        pictures: of the evaluated split; None leaves the examples out.
    """
    rows = table(run)
    if len(rows.rows) < 2:
        return None
    turned = flips(run)
    views = [] if pictures is None else [_view(flip, pictures) for flip in _first(turned)]
    return ScoreCard(run.name, rows, rows.rows[0][0], len(turned), views)


def _first(turned: Sequence[Flip]) -> list[Flip]:
    """Return the first flips of each direction, captions asked first."""
    per_way = [[flip for flip in turned if flip.direction == way][: _EXAMPLES // 2] for way in _WAYS]
    return [flip for group in per_way[::-1] for flip in group]


def _view(flip: Flip, pictures: Pictures) -> FlipView:
    asked_image = flip.direction == "image-to-text"
    image, caption = (flip.query, flip.answer) if asked_image else (flip.answer, flip.query)
    badges = [("missed", f"right: {_short(task)}") for task in flip.right]
    badges += [("bad", f"wrong: {_short(task)}") for task in flip.wrong]
    return FlipView(image, pictures.uri(image), pictures.words[caption], asked_image, badges)


def _short(task: str) -> str:
    names = {
        "cross-modal": "own pairs",
        "coco-5k": "COCO",
        "cxc": "CxC",
        "eccv-caption": "ECCV",
        "audited": "people here",
    }
    return names.get(task, "all known matches")
