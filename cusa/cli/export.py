"""`cusa export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Splits, Trust, Wait, local, parse_here
from cusa.errors import ConfigError


def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_WORK", help="A run, a model folder, a checkpoint file, or a hub name; or a work folder."
        ),
    ],
    to: Annotated[
        Literal["folder", "hf", "sentence-transformers", "onnx", "atlas", "fiftyone", "label-studio"],
        typer.Option(
            help="The format. Of a student: folder (our own), hf, sentence-transformers, onnx. Of a work folder: "
            "atlas, fiftyone, label-studio."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder to write.")],
    space: Annotated[Literal["cross", "uni"], typer.Option(help="Of sentence-transformers: whose heads.")] = "cross",
    ensemble: Annotated[str, typer.Option(help="A second run: an SGR and an SAF become SGRAF.")] = "",
    split: Splits = None,
    image: Annotated[
        str, typer.Option(help="Of a work folder: the image teacher of map and neighbours. Default: the only one.")
    ] = "",
    text: Annotated[str, typer.Option(help="Of a work folder: the text teacher, likewise.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Of label-studio: candidates a split at most.")] = 1000,
    trust: Trust = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained student for another library, loaded again and compared to 1e-5, with a model card.

    Or a work folder for a viewer or an annotation tool: map, neighbours, candidates, verdicts.

    Example: cusa export work/scenes --to atlas --out work/atlas
    """
    if to in ("atlas", "fiftyone", "label-studio"):
        from cusa.integrations import export as data

        if ensemble or trust:
            raise ConfigError(f"--to {to} is for work folders; --ensemble and --trust are of students.", option="--to")
        with Console():
            outcome = data.export(
                parse_here(name),
                to=to,
                out=out,
                names=split or (),
                image=image,
                text=text,
                limit=limit,
                force=force,
            )
        report_outcomes(outcome, as_json=as_json)
        return
    from cusa.workflow import export as exporting

    if split or image or text:
        raise ConfigError(f"--to {to} is for students; --split, --image and --text are of work folders.", option="--to")
    with Console():
        outcome = exporting.export(name, to=to, out=out, space=space, ensemble=ensemble, trust=trust or (), force=force)
    report_outcomes(outcome, as_json=as_json, look_at=out / "README.md")
