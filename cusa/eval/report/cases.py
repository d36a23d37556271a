"""The report's case studies: queries that the runs answer differently, and some at random."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from cusa.eval.report import audit
from cusa.eval.report.pictures import Pictures
from cusa.eval.report.runs import Run
from cusa.manifests.keys import split_caption_key
from cusa.manifests.samples import Split

_CASES = 6  # of each direction
_SHOWN = 5  # answers of each run


@dataclass(frozen=True)
class Answer:
    """One of a run's first answers to a query.

    Attributes:
        kind: `good` for the query's own, `missed` for a match that the data set does not make, `bad` for others.
        key: of the image or caption.
        words: the caption; empty for an image.
        picture: a data URI; empty for a caption.
    """

    kind: str
    key: str
    words: str = ""
    picture: str = ""


@dataclass(frozen=True)
class RunAnswers:
    """A run's first answers to a query, the best first."""

    run: str
    rank: int
    """Of the query's own best match, 1 = first."""
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Case:
    """One query and what each run answers.

    Attributes:
        key: of the image or caption.
        words: the caption; empty for an image.
        picture: a data URI; empty for a caption.
        columns: a run each.
    """

    key: str
    words: str
    picture: str
    columns: Sequence[RunAnswers]


@dataclass(frozen=True)
class Cases:
    """The section's values.

    Attributes:
        compared: whether there are several runs.
        complete: whether everything that is not known to match is known not to.
        groups: title, and the cases of one direction.
    """

    compared: bool
    complete: bool
    groups: Sequence[tuple[str, Sequence[Case]]]


_Ranked = tuple[int, list[str]]
"""Rank of the query's own best match, and the keys of the first answers."""


def gather(runs: Sequence[Run], split: Split, pictures: Pictures) -> Cases:
    """Return the section's values.

    Args:
        runs: the first is the baseline.
        split: the evaluated split.
        pictures: its pictures and captions.
    """
    known = audit.known_matches(split)

    def kind(image: str, caption: str) -> str:
        if split_caption_key(caption)[0] == image:
            return "good"
        return "missed" if (image, caption) in known.pairs else "bad"

    groups = []
    for direction, title in (("text-to-image", "Caption to images"), ("image-to-text", "Image to captions")):
        from_captions = direction == "text-to-image"
        ranked = [_ranked(run, direction) for run in runs]
        missed = {query for query, (_, top) in ranked[-1].items() if _has_missed(query, top[:_SHOWN], kind)}
        cases = []
        for query in _choose(ranked, missed):
            columns = []
            for run, of_query in zip(runs, ranked, strict=True):
                rank, top = of_query[query]
                if from_captions:
                    answers = [Answer(kind(key, query), key, picture=pictures.uri(key)) for key in top[:_SHOWN]]
                else:
                    answers = [Answer(kind(query, key), key, words=pictures.words[key]) for key in top[:_SHOWN]]
                columns.append(RunAnswers(run.name, rank, answers))
            words, picture = (pictures.words[query], "") if from_captions else ("", pictures.uri(query))
            cases.append(Case(query, words, picture, columns))
        groups.append((title, cases))
    return Cases(len(runs) > 1, known.complete, groups)


def _ranked(run: Run, direction: str) -> dict[str, _Ranked]:
    rows = run.per_query.filter(
        pc.and_(
            pc.equal(run.per_query["task"], "cross-modal"),
            pc.equal(run.per_query["direction"], direction),
        )
    )
    columns = (rows[name].to_pylist() for name in ("query_key", "rank", "top_keys"))
    return {key: (rank, top) for key, rank, top in zip(*columns, strict=True)}


def _has_missed(query: str, top: Sequence[str], kind: Callable[[str, str], str]) -> bool:
    """Tell whether a query's answers hold one that is true though the data set does not pair it."""
    is_caption = "#" in query
    return any((kind(key, query) if is_caption else kind(query, key)) == "missed" for key in top)


def _choose(ranked: Sequence[Mapping[str, _Ranked]], first: Container[str]) -> list[str]:
    rng = np.random.default_rng(0)
    keys = [key for key in ranked[0] if all(key in other for other in ranked)]
    differ = [key for key in keys if len({other[key][0] == 1 for other in ranked}) > 1]
    drawn = sorted(rng.permutation(differ).tolist(), key=lambda key: key not in first)  # stable: still at random
    chosen = drawn[: _CASES // 2]
    rest = [key for key in rng.permutation(keys) if key not in chosen]
    return [str(key) for key in [*chosen, *rest][:_CASES]]
