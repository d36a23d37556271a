"""The report's score card: one run's answers judged by every ground truth there is, and the verdicts that differ."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import pyarrow.compute as pc

from cusa.eval.report.runs import METRIC_WORDS, Run, cell, value_of
from cusa.manifests import page

TRUTHS = ("cross-modal", "coco-5k", "cxc", "eccv-caption", "audited", "cross-modal-truth")
"""Tasks that judge the same answers, from the data set's own pairs to everything that is known."""

_WAYS = ("image-to-text", "text-to-image")
_SHOWN = 8


class Flip(NamedTuple):
    """A query whose first answer is wrong by the own pairs and right by other truths, or the other way round."""

    direction: str
    query: str
    answer: str
    right: tuple[str, ...]
    """Tasks that call it right."""
    wrong: tuple[str, ...]


def verdicts(run: Run) -> dict[tuple[str, str], dict[str, tuple[bool, str]]]:
    """Return (direction, query) -> task -> whether the first answer is right, and which answer that was."""
    found: dict[tuple[str, str], dict[str, tuple[bool, str]]] = {}
    names = ("task", "direction", "query_key", "rank", "positives", "top_keys")
    table = run.per_query.filter(pc.is_in(run.per_query["task"], value_set=_strings(TRUTHS)))
    for task, direction, query, rank, positives, top in zip(*(table[name].to_pylist() for name in names), strict=True):
        if positives and top:
            found.setdefault((direction, query), {})[task] = (rank == 1, top[0])
    return found


def flips(run: Run) -> list[Flip]:
    """Return the queries whose verdict differs between two truths that judge the same answer.

    A truth that ranks another gallery may have another first answer; it is not compared then.
    """
    found = []
    for (direction, query), judged in verdicts(run).items():
        base = next((task for task in TRUTHS if task in judged), None)
        if base is None:
            continue
        answer = judged[base][1]
        right = tuple(task for task in TRUTHS if task in judged and judged[task] == (True, answer))
        wrong = tuple(task for task in TRUTHS if task in judged and judged[task] == (False, answer))
        if right and wrong:
            found.append(Flip(direction, query, answer, right, wrong))
    return found


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return the card as header and rows of plain words: a row a truth, and how many verdicts it turns round."""
    told = [task for task in TRUTHS if value_of(run, task, "text-to-image/r@1") is not None]
    header = ["judged by", "image to text R@1", "text to image R@1", "RSUM", "R-P i2t", "R-P t2i", "mAP@R i2t"]
    header += ["mAP@R t2i", "turned right", "turned wrong"]
    judged = verdicts(run)
    rows = []
    for task in told:
        metrics = (*(f"{way}/r@1" for way in _WAYS), "rsum", *(f"{way}/r_precision" for way in _WAYS))
        cells = [cell(value_of(run, task, name)) for name in (*metrics, *(f"{way}/map_at_r" for way in _WAYS))]
        turned = ["", ""]
        if task != told[0]:
            both = [one for one in judged.values() if task in one and told[0] in one]
            same = [(one[told[0]][0], one[task][0]) for one in both if one[task][1] == one[told[0]][1]]
            turned = [f"{same.count((False, True)):,} of {len(same):,}", f"{same.count((True, False)):,}"]
        rows.append([METRIC_WORDS.get(task, task), *cells, *turned])
    return header, rows


def section(run: Run, thumb: Callable[[str], str] | None, words: Mapping[str, str]) -> Iterable[str]:
    """Give the section piece by piece, everything escaped; nothing where one truth alone is known.

    Args:
        run: the last of the report.
        thumb: image key -> data URI; None leaves the examples out.
        words: caption key -> text.
    """
    header, rows = table(run)
    if len(rows) < 2:
        return
    yield "<h2>The same answers, judged by every truth</h2>"
    yield (
        f"<p>{escape(run.name)} gave its answers once; each row judges them by another ground truth. Turned right: "
        f"first answers that are wrong by “{escape(rows[0][0])}” and right by this one. What counts as a mistake is in "
        "good part a matter of who was asked.</p>"
    )
    yield page.table(header, [[escape(one) for one in row] for row in rows])
    if thumb is not None:
        yield from _examples(flips(run), thumb, words)


def _examples(found: Sequence[Flip], thumb: Callable[[str], str], words: Mapping[str, str]) -> Iterable[str]:
    if not found:
        return
    yield f"<h3>Verdicts that differ: {len(found):,} queries, the first ones</h3><div class='gallery'>"
    per_way = [[flip for flip in found if flip.direction == way][: _SHOWN // 2] for way in _WAYS]
    for flip in (one for group in per_way[::-1] for one in group):
        image, caption = (flip.query, flip.answer) if flip.direction == "image-to-text" else (flip.answer, flip.query)
        asked, given = (
            ("this image", "this caption") if flip.direction == "image-to-text" else ("this caption", "this image")
        )
        badges = "".join(
            f'<span class="badge {kind}">{verdict}: {escape(_short(task))}</span>'
            for tasks, kind, verdict in ((flip.right, "missed", "right"), (flip.wrong, "bad", "wrong"))
            for task in tasks
        )
        yield (
            f'<div class="pair flip">{page.picture(thumb(image), image)}<div class="caption">“{escape(words[caption])}”'
            f'</div><div class="small soft">Asked {asked}, it answered {given}.</div><div class="numbers">{badges}'
            "</div></div>"
        )
    yield "</div>"


def _short(task: str) -> str:
    names = {
        "cross-modal": "own pairs",
        "coco-5k": "COCO",
        "cxc": "CxC",
        "eccv-caption": "ECCV",
        "audited": "people here",
    }
    return names.get(task, "all known matches")


def _strings(values: Sequence[str]) -> object:
    import pyarrow as pa

    return pa.array(values, pa.string())
