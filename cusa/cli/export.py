"""`cusa export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Trust, Wait, local


def export(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a model folder, a checkpoint file, or a hub name.")
    ],
    to: Annotated[
        Literal["folder", "hf", "sentence-transformers", "onnx"], typer.Option(help="The format; folder is our own.")
    ],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder to write.")],
    space: Annotated[Literal["cross", "uni"], typer.Option(help="Of sentence-transformers: whose heads.")] = "cross",
    ensemble: Annotated[str, typer.Option(help="A second run: an SGR and an SAF become SGRAF.")] = "",
    trust: Trust = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained student for another library, loaded again and compared to 1e-5, with a model card."""
    from cusa.workflow import export as exporting

    with Console():
        outcome = exporting.export(name, to=to, out=out, space=space, ensemble=ensemble, trust=trust or (), force=force)
    report_outcomes(outcome, as_json=as_json, look_at=out / "README.md")
