"""`cusa review`."""

from typing import Annotated

import typer

from cusa.cli.console import print_json, print_text, say
from cusa.cli.options import AsJson, Work


def review(
    work: Work,
    split: Annotated[str, typer.Option(help="Which split. Default: the only audited one.")] = "",
    reviewer: Annotated[str, typer.Option("--as", help="Your name; the page asks for it otherwise.")] = "",
    where: Annotated[str, typer.Option("--sql", help="Only candidates for which this SQL condition holds.")] = "",
    votes: Annotated[int, typer.Option(min=1, help="People asked about each candidate.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Candidates in the queue at most.")] = 20_000,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On this machine; 0 = any free one.")] = 8321,
    as_json: AsJson = False,
) -> None:
    """Judge candidates on a page in the browser, one after the other: match, related, no match, duplicate or skip."""
    from cusa.pipeline.review import server

    def ready(url: str) -> None:
        say(f"review: {url} (Ctrl-C ends it; every verdict is kept as soon as it is given)")

    done = server.run(
        work, split=split, votes=votes, limit=limit, port=port, reviewer=reviewer, where=where, on_ready=ready
    )
    if as_json:
        print_json(vars(done))
        return
    if done.verdicts is None:
        print_text("review: nobody judged")
        return
    print_text(f"review: {done.verdicts}: {done.pairs:,} pairs judged, {done.positive:,} of them matches")
    for note in done.notes:
        print_text(f"  {note}")
