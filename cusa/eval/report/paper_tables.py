"""The report's section on the paper's tables: our runs beside every published row."""

from collections.abc import Sequence
from dataclasses import dataclass

from cusa.eval import paper
from cusa.eval.report.runs import Run


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper with our numbers in it.

    Attributes:
        title: of the table.
        num_ours: rows of ours, which stand first.
        header: names of the columns.
        rows: plain texts.
    """

    title: str
    num_ours: int
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PaperTables:
    """The section's values.

    Attributes:
        tables: all of the paper's.
        left_out: evaluations by another protocol, in words.
    """

    tables: Sequence[PaperTable]
    left_out: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """Titles of the tables without a number of ours."""
        return [table.title for table in self.tables if not table.num_ours]


def gather(runs: Sequence[Run]) -> PaperTables:
    """Return the section's values."""
    tables = [_table(table.name, part, runs) for table in paper.TABLES for part in _narrow(table)]
    return PaperTables(tables, [f"{run.name}: {words}" for run in runs for words in run.left_out])


def _table(name: str, part: paper.Table, runs: Sequence[Run]) -> PaperTable:
    """Return a part of the table `name`: rows of the runs that have a number in it, then the published ones."""
    datasets = {column.dataset for column in part.columns}
    cut = {run.name for run in runs for one in run.everything if one["dataset"] in datasets and paper.is_part(one)}
    ours = {run.name: values for run in runs if (values := paper.values(part, run.everything))}
    rows = [
        [
            f"{run} (ours{', on part of the data' if run in cut else ''})",
            *(_one(values.get(column.key)) for column in part.columns),
        ]
        for run, values in ours.items()
    ]
    for row in paper.published(name):
        rows.append([f"{row['model']}, {row['method']}", *(row[column.key] for column in part.columns)])
    return PaperTable(part.title, len(ours), ["", *(column.label for column in part.columns)], rows)


def _narrow(table: paper.Table) -> list[paper.Table]:
    """Cut a table of several data sets with many columns in two, so that a page holds it."""
    names = list(dict.fromkeys(column.dataset for column in table.columns))
    if len(table.columns) <= 8 or len(names) == 1:
        return [table]
    titles = {"coco": "COCO 5K", "flickr30k": "Flickr30K 1K"}
    return [
        paper.Table(
            table.name,
            f"Image-text retrieval on {titles.get(name, name)}",
            tuple(
                column._replace(label=column.label.partition(", ")[2])
                for column in table.columns
                if column.dataset == name
            ),
        )
        for name in names
    ]


def _one(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
