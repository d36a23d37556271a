"""`cusa calibrate`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import (
    AsJson,
    EngineAddress,
    EngineKind,
    Force,
    UnitRanges,
    UnitWorkers,
    Wait,
    Work,
    parse_path,
    refuse_unread,
    units_shared,
    validated,
)
from cusa.errors import ConfigError

_READ_IN_BATCH = (
    "out",
    "split",
    "ratings",
    "test",
    "test_ratings",
    "image",
    "text",
    "student",
    "pairs",
    "seed",
    "in_batch",
)


def calibrate(
    context: typer.Context,
    work: Work,
    out: Annotated[Path, typer.Option(parser=parse_path, help="The calibration to write, a JSON file.")],
    split: Annotated[str, typer.Option(help="Split whose pairs were judged.")] = "val",
    ratings: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="CxC's sits_*.csv, Flickr8k's judgements, a folder of either, or a truth table. Default: verdicts, or "
            "truth.parquet.",
        ),
    ] = None,
    test: Annotated[str, typer.Option(help="Split to test on; empty: none.")] = "",
    test_ratings: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Judgements of that split, likewise.")
    ] = None,
    image: Annotated[str, typer.Option(help="Image teacher; `none` to do without. Default: the only one.")] = "",
    text: Annotated[str, typer.Option(help="Text teacher; `none` to do without. Default: the only one.")] = "",
    student: Annotated[str, typer.Option(help="An indexed student, whose similarity is a feature.")] = "",
    neighbours: Annotated[int, typer.Option(help="Depth of the neighbourhoods, as the audit's.")] = 50,
    pairs: Annotated[int, typer.Option(help="Judged pairs at most, where every pair is judged.")] = 20_000,
    background: Annotated[int, typer.Option(help="Random pairs; the less alike half is no match.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    in_batch: Annotated[
        bool,
        typer.Option("--in-batch", help="Calibrate random pairs by the teachers' cosines alone, for training."),
    ] = False,
    workers: UnitWorkers = None,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    unit_range: UnitRanges = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Fit the probability that a pair matches on human ratings; `cusa audit --calibration` uses the file.

    Example: cusa calibrate WORK --split val --out p.json --ratings sits_val.csv --test test

    With --in-batch the file is for training instead: `cusa train --set loss.calibration=FILE` with
    loss.soft_labels=calibrated, loss.false_negatives=debiased or loss.teacher_temperature=audit.
    """
    from cusa.manifests.samples import Split
    from cusa.manifests.stage import Outcome
    from cusa.pipeline.calibrate import in_batch as for_batches
    from cusa.pipeline.calibrate import stage as stage
    from cusa.pipeline.config import CalibrateConfig
    from cusa.pipeline.pairs.neighbourhoods import Encoders
    from cusa.pipeline.pairs.ratings import RatedSplit

    config = validated(CalibrateConfig, neighbours=neighbours, pairs=pairs, background=background, seed=seed)
    if test == split:
        raise ConfigError(f"--test {test} is the split that is fitted on; test on another one.", option="--test")
    if in_batch:
        refuse_unread(context, _READ_IN_BATCH, "--in-batch")
    with Console() as console, units_shared(workers, engine, address, unit_range):
        run: Callable[..., Outcome] = for_batches.run if in_batch else partial(stage.run, on_event=console.event)
        outcome = run(
            config,
            split=Split(work, split),
            out=out,
            ratings=ratings,
            test=RatedSplit(Split(work, test), test_ratings) if test else None,
            encoders=Encoders(image, text, student),
            force=force,
        )
    if unit_range not in ("", "merge"):
        report_outcomes(outcome, as_json=as_json)
        return
    then = f"cusa audit {work} --calibration {out}"
    if in_batch:
        of_loss = f"--set loss.soft_labels=calibrated --set loss.calibration={out}"
        then = f"cusa train RECIPE --data {work} --out RUN {of_loss}"
    report_outcomes(outcome, as_json=as_json, then=then)
