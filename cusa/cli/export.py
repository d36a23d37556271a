"""`cusa export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, Force, Splits, Trust, Wait, local, parse_here, validated
from cusa.errors import ConfigError


def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A run, a model folder, a checkpoint file, or a hub name; or a work folder."
        ),
    ],
    to: Annotated[
        Literal[
            "folder",
            "hf",
            "sentence-transformers",
            "onnx",
            "parquet",
            "webdataset",
            "atlas",
            "fiftyone",
            "label-studio",
        ],
        typer.Option(
            help="The format. Of a student: folder (our own), hf, sentence-transformers, onnx. Of a work folder: "
            "parquet, webdataset, atlas, fiftyone, label-studio."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder to write.")],
    space: Annotated[Literal["cross", "uni"], typer.Option(help="Of sentence-transformers: whose heads.")] = "cross",
    ensemble: Annotated[str, typer.Option(help="A second run: an SGR and an SAF become SGRAF.")] = "",
    licence: Annotated[str, typer.Option(help="Of parquet and webdataset: the terms that the card states.")] = "",
    workers: Annotated[int, typer.Option(help="Of parquet and webdataset: processes; 0 = one a core.")] = 0,
    split: Splits = None,
    image: Annotated[
        str,
        typer.Option(
            help="Of atlas and fiftyone: the image teacher of map and neighbours; default: the only one. Of heads on "
            "tables: what makes such a row of a new picture, as `cusa extract-teachers` takes it."
        ),
    ] = "",
    text: Annotated[
        str, typer.Option(help="Of atlas and fiftyone: the text teacher. Of heads on tables: likewise, of a new text.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Of label-studio: candidates a split at most.")] = 1000,
    trust: Trust = None,
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained student for another library, loaded again and compared to 1e-5, with a model card; or a work
    folder: as Parquet or WebDataset with a data card and Croissant metadata, or for a viewer or an annotation tool.
    """
    from cusa.integrations import VIEWS
    from cusa.pipeline.config import DATA_FORMATS, PublishConfig

    of_work = to in DATA_FORMATS or to in VIEWS
    if of_work and (ensemble or trust):
        raise ConfigError(f"--to {to} is for work folders; --ensemble and --trust are of students.", option="--to")
    if to not in VIEWS and split:
        raise ConfigError(f"--split is of --to {', '.join(VIEWS)}, not of {to}.", option="--to")
    if to in DATA_FORMATS and (image or text):
        raise ConfigError(
            f"--image and --text are of students and of --to {', '.join(VIEWS)}, not of {to}.", option="--to"
        )
    if to not in DATA_FORMATS and (licence or workers):
        raise ConfigError(f"--licence and --workers are of --to {', '.join(DATA_FORMATS)}, not of {to}.", option="--to")
    with Console() as console:
        if to in DATA_FORMATS:
            from cusa.pipeline import publish

            config = validated(PublishConfig, licence=licence, workers=workers)
            outcome = publish.run(config, work=parse_here(name), to=to, out=out, force=force, on_event=console.event)
        elif to in VIEWS:
            from cusa.integrations import export as tools
            from cusa.pipeline.readers import refuse_own_source

            refuse_own_source(parse_here(name), out)
            outcome = tools.export(
                parse_here(name),
                to=to,
                out=out,
                names=split or (),
                image=image,
                text=text,
                limit=limit,
                force=force,
            )
        else:
            from cusa.workflow import export as exporting

            outcome = exporting.export(
                name,
                to=to,
                out=out,
                space=space,
                ensemble=ensemble,
                encoders={modality: one for modality, one in (("image", image), ("text", text)) if one},
                trust=trust or (),
                force=force,
            )
    report_outcomes(outcome, as_json=as_json, look_at=out / "README.md")
