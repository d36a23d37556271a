"""`cusa export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Trust, Wait, local, parse_here, validated


def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A run, a model folder, a checkpoint file, or a hub name; or a work folder."
        ),
    ],
    to: Annotated[
        Literal["folder", "hf", "sentence-transformers", "onnx", "parquet", "webdataset"],
        typer.Option(help="The format; folder is our own. Of a work folder: parquet or webdataset."),
    ],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder to write.")],
    space: Annotated[Literal["cross", "uni"], typer.Option(help="Of sentence-transformers: whose heads.")] = "cross",
    ensemble: Annotated[str, typer.Option(help="A second run: an SGR and an SAF become SGRAF.")] = "",
    licence: Annotated[str, typer.Option(help="Of a work folder: the terms that its card states.")] = "",
    workers: Annotated[int, typer.Option(help="Of a work folder: processes; 0 = one a core.")] = 0,
    trust: Trust = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained student for another library, loaded again and compared to 1e-5, with a model card; or a work
    folder's images and captions for other tools, with a data card and Croissant metadata.
    """
    from cusa.pipeline.config import DATA_FORMATS, PublishConfig

    with Console() as console:
        if to in DATA_FORMATS:
            from cusa.pipeline import publish

            config = validated(PublishConfig, licence=licence, workers=workers)
            outcome = publish.run(config, work=parse_here(name), to=to, out=out, force=force, on_event=console.event)
        else:
            from cusa.workflow import export as exporting

            outcome = exporting.export(
                name, to=to, out=out, space=space, ensemble=ensemble, trust=trust or (), force=force
            )
    report_outcomes(outcome, as_json=as_json, look_at=out / "README.md")
