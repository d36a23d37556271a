"""`cusa blend`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cusa.cli.console import Console, Stopping, point_on, print_json, print_table, print_text, report_outcomes
from cusa.cli.options import AsJson, Force, Settings, Trust, Wait, local, parse_path


def blend(
    base: Annotated[
        str,
        typer.Argument(
            help="What RUN was fine-tuned from: a run, a model folder, a checkpoint file, a hub name; or `start`, the "
            "model that its recipe starts from."
        ),
    ],
    run: Annotated[str, typer.Argument(help="The fine-tuned run or model folder.")],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder of the points, the page and the model.")],
    grid: Annotated[
        str, typer.Option(help="Points, START:STOP:STEP or with commas: 0 is the base's weights, 1 the run's.")
    ] = "0:1:0.1",
    data: Annotated[
        Path | None, typer.Option("--data", parser=parse_path, help="Work folder of the new task; default: the run's.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the new task; default: the run's validation split.")] = "",
    guard: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORK:SPLIT",
            help="What the base could do, measured as retrieval where the split has captions and as zero-shot classes "
            "where it has labels; default split: test; repeatable.",
        ),
    ] = None,
    choose: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Which point becomes OUT/model: a number; best = the highest number of the new task; keep:1 = the "
            "highest where no guard loses more than 1 against the base. A rule never looks at a test split.",
        ),
    ] = "",
    settings: Settings = None,
    trust: Trust = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Interpolate a model and its fine-tuned run, measure what points gain and forget, write the chosen one."""
    from cusa.manifests.events import Callbacks
    from cusa.workflow import blend as blends

    local("BASE")(base)
    local("RUN")(run)
    with Console() as console, Stopping() as stopping:
        done = blends.run(
            blends.BlendRequest(
                base=base,
                run=run,
                out=out,
                data=data,
                split=split,
                guards=guard or (),
                grid=grid,
                choose=choose,
                settings=settings or (),
                trust=trust or (),
                force=force,
            ),
            callbacks=Callbacks(console.event, console.metrics, console.say, stopping.asked),
        )
    if as_json:
        print_json(done.result)
        return
    report_outcomes(done.outcome)
    _print(done.result)
    evaluate = f"cusa eval {shlex.quote(str(out))} --data {shlex.quote(str(done.work))}"
    point_on(out / "blend.html", evaluate if done.result["chosen"] else "")


def _print(result: Mapping[str, Any]) -> None:
    """Print every point with its numbers."""
    chosen = (result["chosen"] or {}).get("point")
    rows = []
    for number, point in enumerate(result["points"]):
        marks = ["frontier" if point["frontier"] else "", "chosen" if number == chosen else ""]
        rows.append(
            (f"{point['alpha']:g}", *(f"{value:.1f}" for value in point["values"]), ", ".join(filter(None, marks)))
        )
    print_text("")
    print_table(("alpha", *(one["title"] for one in result["measures"]), ""), rows)
