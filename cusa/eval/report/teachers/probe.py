"""The report's section on what text teachers cannot tell apart: a card a teacher, from `cusa teachers probe`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cusa.errors import DataError
from cusa.manifests.pages import Figure, Table
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

_EXAMPLES = 6  # of edits that are nearer than every sibling, a teacher


class Example(NamedTuple):
    """An edit that a teacher takes for a better match than every true sibling."""

    kind: str
    caption: str
    edited: str
    sibling: str
    edit_similarity: str
    sibling_similarity: str


@dataclass(frozen=True)
class ProbeCard:
    """The values of one teacher's card.

    Attributes:
        teacher: its tables' name.
        split: whose captions were edited.
        figures: the share of each kind of edit, with its interval.
        table: the same with counts and similarities.
        examples: one of each kind.
    """

    teacher: str
    split: str
    figures: Sequence[Figure]
    table: Table
    examples: Sequence[Example]


def files(split: Split) -> list[Path]:
    """Return the probes' figures in a split, which the section is made from."""
    paths = sorted((split.folder / "probe").glob("*.json"))
    return [path for path in paths if not path.name.endswith(".ledger.json")]


def gather(split: Split) -> list[ProbeCard]:
    """Return a card for each text teacher that was probed on a split.

    Args:
        split: the evaluated one.

    Raises:
        DataError: if a file is broken.
    """
    cards = []
    for path in files(split):
        result = store.read_json(path)
        try:
            cards.append(_card(result, path.with_suffix(".parquet")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not what `cusa teachers probe` writes ({error!r}).", path=path) from error
    return cards


def _card(result: Mapping[str, Any], rows: Path) -> ProbeCard:
    kinds = [one for one in result["kinds"].values() if one["edits"]]
    figures = [
        Figure(
            str(one["title"]),
            f"{one['share']:.0f} %",
            f"{one['interval'][0]:.0f} to {one['interval'][1]:.0f} %; {one['nearer']:,} of {one['edits']:,}",
        )
        for one in kinds
    ]
    header = ("edit", "nearer than every sibling", "95 % interval", "of", "similarity of the edit", "of a sibling")
    table = Table(
        header,
        [
            [
                str(one["title"]),
                f"{one['share']:.1f} %",
                f"{one['interval'][0]:.1f} to {one['interval'][1]:.1f} %",
                f"{one['edits']:,}",
                f"{one['edit_similarity']:.3f}",
                f"{one['sibling_similarity']:.3f}",
            ]
            for one in kinds
        ],
        words=(0,),
    )
    titles = {kind: str(one["title"]) for kind, one in result["kinds"].items()}
    return ProbeCard(str(result["teacher"]), str(result["split"]), figures, table, _examples(rows, titles))


def _examples(path: Path, titles: Mapping[str, str]) -> list[Example]:
    """Return of each kind the edit that stands furthest ahead of the nearest sibling."""
    if not path.is_file():
        return []
    best: dict[str, dict[str, Any]] = {}
    for row in store.read_table(path).to_pylist():
        ahead = row["edit_similarity"] - row["sibling_similarity"]
        kept = best.get(row["kind"])
        if row["nearer"] and (kept is None or ahead > kept["edit_similarity"] - kept["sibling_similarity"]):
            best[row["kind"]] = row
    return [
        Example(
            titles[kind],
            best[kind]["caption"],
            best[kind]["edited"],
            best[kind]["sibling"],
            f"{best[kind]['edit_similarity']:.2f}",
            f"{best[kind]['sibling_similarity']:.2f}",
        )
        for kind in titles
        if kind in best
    ][:_EXAMPLES]
