"""The score card: what turned verdicts are, counted from the ranks."""

from pathlib import Path

from cusa.eval.report import card, runs


def test_card__counts_the_verdicts_that_turn(evaluated: tuple[Path, Path]) -> None:
    read = runs.read(evaluated[1])
    rows = read.per_query.to_pylist()
    ranks = {
        task: {(row["direction"], row["query_key"]): row["rank"] for row in rows if row["task"] == task}
        for task in ("cross-modal", "cross-modal-truth")
    }
    turned = [key for key, rank in ranks["cross-modal"].items() if rank != 1 and ranks["cross-modal-truth"][key] == 1]
    flips = card.flips(read)
    assert turned
    assert sorted((flip.direction, flip.query) for flip in flips) == sorted(turned)
    assert all((flip.right, flip.wrong) == (("cross-modal-truth",), ("cross-modal",)) for flip in flips)
    table = card.table(read)
    assert len(table.rows) == 2
    assert table.rows[1][table.header.index("turned right")].startswith(f"{len(turned)} of ")
    assert table.rows[1][table.header.index("turned wrong")] == "0", (
        "a truth that holds the own pairs takes nothing back"
    )
