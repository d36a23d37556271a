"""`cusa review`."""

from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, print_json, print_text, say
from cusa.cli.options import AsJson, Work, parse_path
from cusa.errors import ConfigError
from cusa.manifests.words import counted


def review(
    work: Work,
    split: Annotated[str, typer.Option(help="Which split. Default: the only audited one.")] = "",
    reviewer: Annotated[str, typer.Option("--as", help="Your name; the page asks for it otherwise.")] = "",
    where: Annotated[str, typer.Option("--sql", help="Only candidates for which this SQL condition holds.")] = "",
    for_eval: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--for-eval",
            metavar="RUNS",
            help="Two runs, A B: ask the pairs that tell them apart, in a random order, for `cusa eval A B --judged`.",
        ),
    ] = None,
    scores: Annotated[
        str, typer.Option(help="With --for-eval: r@1, or at-r for R-Precision and mAP@R (whole queries).")
    ] = "r@1",
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs", help="Ask about the data set's own pairs, the doubted first: keep, wrong, or a better."
        ),
    ] = False,
    votes: Annotated[int, typer.Option(min=1, help="People asked about each candidate.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Candidates in the queue at most.")] = 20_000,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On this machine; 0 = any free one.")] = 8321,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE",
            parser=parse_path,
            help="Ask nothing: take the annotations of Label Studio's JSON export (`cusa export --to label-studio`).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge candidates on a page in the browser, one after the other: match, related, no match, duplicate or skip.

    With --pairs say of the data set's own captions whether they belong to their image, and choose a better one.
    """
    from cusa.pipeline.review import server

    if annotations is not None:
        from cusa.integrations import label_studio

        taken = label_studio.read(work, annotations)
        if as_json:
            print_json({"imported": taken})
        else:
            words = ", ".join(f"{number:,} of {name}" for name, number in taken.items()) or "none"
            print_text(f"review: new verdicts: {words}")
        return
    sample = None
    if for_eval is not None:
        from cusa.workflow import judged

        if pairs:
            raise ConfigError("--pairs and --for-eval ask about different pairs: leave one out.", option="--pairs")
        if where:
            raise ConfigError("--sql and --for-eval exclude each other: a filtered sample is none.", option="--sql")
        with Console() as console:
            split, sample = judged.prepare(for_eval, work, split=split, scores=scores, on_event=console.event)

    def ready(url: str) -> None:
        say(f"review: {url} (Ctrl-C ends it; every verdict is kept as soon as it is given)")

    done = server.run(
        work,
        split=split,
        questions=server.Questions(where=where, votes=votes, limit=limit, own_pairs=pairs, sample=sample),
        port=port,
        reviewer=reviewer,
        on_ready=ready,
    )
    if as_json:
        print_json(vars(done))
        return
    if done.verdicts is None:
        print_text("review: nobody judged")
        return
    print_text(f"review: {done.verdicts}: {counted(done.pairs, 'pair')} judged, {done.positive:,} of them matches")
    if pairs:
        print_text(f"  Leave wrong pairs out with `cusa shard subset {work} --verdicts repair --out NEW`.")
    for note in done.notes:
        print_text(f"  {note}")
