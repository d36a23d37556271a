"""The report's section on the paper's tables: our runs beside every published row."""

from collections.abc import Iterable, Sequence
from html import escape

from cusa.eval import paper
from cusa.eval.report.runs import Run
from cusa.manifests import page


def tables(runs: Sequence[Run]) -> list[tuple[str, bool, list[str], list[list[str]]]]:
    """Return each table: title, whether a run has a number in it, header, and rows of plain words, ours first."""
    found = []
    for whole in paper.TABLES:
        for part in _narrow(whole):
            ours = {run.name: paper.values(part, run.everything) for run in runs}
            names = {column.dataset for column in part.columns}
            cut = {run.name for run in runs for one in run.everything if one["dataset"] in names and paper.is_part(one)}
            rows = [
                [
                    f"{name} (ours{', on part of the data' if name in cut else ''})",
                    *(_one(values.get(column.key)) for column in part.columns),
                ]
                for name, values in ours.items()
                if values
            ]
            has = bool(rows)
            for row in paper.published(whole.name):
                rows.append([f"{row['model']}, {row['method']}", *(row[column.key] for column in part.columns)])
            found.append((part.title, has, ["", *(column.label for column in part.columns)], rows))
    return found


def section(runs: Sequence[Run]) -> Iterable[str]:
    """Give the section piece by piece, everything escaped."""
    yield "<h2>Beside the published figures</h2>"
    found = tables(runs)
    missing = [title for title, has, _, _ in found if not has]
    if missing:
        yield (
            f"<p>Nothing here was evaluated on the data of: {escape('; '.join(missing))}. "
            "<code>cusa eval RUN --tasks all --data ...</code> does it; the figures stand folded up below.</p>"
        )
    left_out = [f"{run.name}: {words}" for run in runs for words in run.left_out]
    if left_out:
        told = escape("; ".join(left_out))
        yield f"<p class='small soft'>Left out, for another protocol: {told}. Evaluate again.</p>"
    for title, has, header, rows in found:
        cells = [[_mark(row[0]), *(escape(cell) for cell in row[1:])] for row in rows]
        told = page.table(header, cells)
        yield (
            f"<h3>{escape(title)}</h3>{told}" if has else f"<details><summary>{escape(title)}</summary>{told}</details>"
        )
    yield (
        "<p class='small soft'>Published: Huang et al., AAAI 2024, every row of its result tables as printed. "
        "“(authors)” are figures by the base model's own authors. A number of ours stands here only if it was measured "
        "on the same data set by the same task; one on part of its images says so and compares with nobody's.</p>"
    )


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


def _mark(name: str) -> str:
    return f"<b>{escape(name)}</b>" if "(ours" in name else escape(name)


def _one(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
