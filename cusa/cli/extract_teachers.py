"""`cusa extract-teachers`."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import AsJson, EngineAddress, EngineKind, Force, Splits, Wait, Work, engine_of, local, validated
from cusa.errors import ConfigError


def extract_teachers(
    work: Work,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="TEACHER", help="Image teacher: name, folder or module:Class; repeatable."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="TEACHER", help="Text teacher, likewise.")] = None,
    as_: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What the one teacher's tables are called; default: as it is.")
    ] = "",
    split: Splits = None,
    transform: Annotated[
        Literal["clean", "none"], typer.Option(help="Captions as the text teacher reads them.")
    ] = "clean",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Numbers in the tables.")] = "float16",
    precision: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="Numbers the model calculates with; auto: float16 on CUDA."),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Items a pass of the teacher.")] = 64,
    weights: Annotated[str, typer.Option(help="File of a teacher's published weights, or its folder (Unicom).")] = "",
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            parser=local("--import"),
            help="Take features from this .npz, .npy, .parquet, or folder of clip-retrieval, instead.",
        ),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(parser=local("--ids"), help="Of --import FILE.npy: a file with an identifier a line.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, for example one a GPU; 0 = this one.")] = 0,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Embed every image and caption once with frozen uni-modal teachers."""
    from functools import cache, partial

    from cusa.manifests import tables
    from cusa.manifests.origin import name_of_one_modality
    from cusa.manifests.samples import Split, splits
    from cusa.manifests.storage import store
    from cusa.models.teachers.registry import load_teacher
    from cusa.pipeline import extract
    from cusa.pipeline.config import ExtractConfig
    from cusa.pipeline.extract import import_features

    wanted = [("image", name) for name in image or ()] + [("text", name) for name in text or ()]
    if not wanted:
        raise ConfigError("Name at least one teacher: --image NAME or --text NAME; `cusa list teachers` shows them.")
    if as_ and len(wanted) != 1:
        raise ConfigError("--as names the tables of one teacher: give one --image or one --text.", option="--as")
    if as_ and (not re.fullmatch(r"[A-Za-z0-9._-]+", as_) or as_.startswith(".")):
        raise ConfigError(
            f"--as {as_!r} is no name for a folder: letters, digits, `.`, `_` and `-` are allowed, and no `.` at the "
            "start. Write --as my-teacher.",
            option="--as",
            value=as_,
        )
    config = validated(
        ExtractConfig,
        name=as_,
        batch_size=batch_size,
        dtype=dtype,
        transform=transform,
        precision=precision,
        weights=weights,
        workers=workers,
    )
    if import_ is not None:
        if len(wanted) != 1:
            raise ConfigError("--import goes with one teacher's name: --image NAME or --text NAME.")
        features = import_features.read_features(import_, ids, modality=wanted[0][0])
        sha256 = store.sha256_folder(import_) if import_.is_dir() else store.sha256_file(import_)
        with Console() as console:
            outcomes = [
                import_features.run(
                    config,
                    split=Split(work, name),
                    features=features,
                    sha256=sha256,
                    teacher=wanted[0][1],
                    modality=wanted[0][0],
                    force=force,
                    on_event=console.event,
                )
                for name in split or splits(work)
            ]
        report_outcomes(*outcomes, as_json=as_json, then=f"cusa index {work}")
        return
    where = engine_of(engine, address)
    both = {*(image or ())} & {*(text or ())}

    def named(opened: Split, modality: str, teacher: str) -> ExtractConfig:
        """Give each modality of a teacher of both tables of its own, unless it has some."""
        known = teacher not in both or tables.find_teacher(opened, modality, teacher)
        name = config.name if known else name_of_one_modality(teacher, modality)
        return ExtractConfig(**{**config.model_dump(), "name": name})

    # One teacher serves every split.
    load = cache(partial(load_teacher, weights=config.weights, precision=config.precision))
    with Console() as console:
        outcomes = [
            extract.run(
                named(opened, modality, teacher),
                split=opened,
                teacher=teacher,
                modality=modality,
                force=force,
                engine=where,
                on_event=console.event,
                load=load,
            )
            for opened in [Split(work, name) for name in split or splits(work)]
            for modality, teacher in wanted
        ]
    report_outcomes(*outcomes, as_json=as_json, then=f"cusa index {work}")
