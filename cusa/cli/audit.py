"""`cusa audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cusa.cli.console import Console, print_json, print_text, report_outcomes
from cusa.cli.options import (
    AsJson,
    EngineAddress,
    EngineKind,
    Force,
    Splits,
    UnitRanges,
    UnitWorkers,
    Wait,
    Work,
    local,
    parse_here,
    parse_path,
    refuse_unread,
    units_shared,
    validated,
)
from cusa.errors import DataError
from cusa.manifests.events import OnEvent
from cusa.manifests.words import counted

if TYPE_CHECKING:
    from cusa.manifests.samples import Split
    from cusa.manifests.stage import Outcome
    from cusa.pipeline.config import PairsConfig
    from cusa.pipeline.pairs.neighbourhoods import Encoders


def audit(
    context: typer.Context,
    work: Work,
    split: Splits = None,
    image: Annotated[str, typer.Option(help="Image teacher; `none` to do without. Default: the only one.")] = "",
    text: Annotated[str, typer.Option(help="Text teacher; `none` to do without. Default: the only one.")] = "",
    truth: Annotated[
        Path | None,
        typer.Option(parser=parse_here, help="Known matches: a table, or a folder of ECCV Caption / CxC files."),
    ] = None,
    student: Annotated[str, typer.Option(help="An indexed student, whose neighbourhoods join the teachers'.")] = "",
    calibration: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="File of `cusa calibrate`: gives p_positive. Default: one of the package that fits; `none` "
            "to do without.",
        ),
    ] = "",
    ratings: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Human judgements to estimate the missing positives from: CxC's CSV, Flickr8k's files, a table.",
        ),
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="Depth of the neighbourhoods that are joined; with a calibration at most.")
    ] = 50,
    floor: Annotated[
        float, typer.Option(help="Smallest p_positive that is written, and that neighbourhoods are deepened for.")
    ] = 0.005,
    rows: Annotated[int, typer.Option(help="Rows of candidates at most, about, of large splits.")] = 20_000_000,
    per_image: Annotated[int, typer.Option(help="Candidates an image keeps at most, the best; 0 = all.")] = 1000,
    minimum_score: Annotated[float, typer.Option(help="Candidates below are not written, 0 to 1.")] = 0.0,
    near_image: Annotated[float, typer.Option(help="Cosine from which images are near duplicates.")] = 0.97,
    near_caption: Annotated[float, typer.Option(help="Cosine from which captions are near duplicates.")] = 0.97,
    leaks: Annotated[bool, typer.Option(help="Look for images of this split in the others.")] = True,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs", help="Look for wrong pairs of the data set itself instead, and for faulty pictures and captions."
        ),
    ] = False,
    pictures: Annotated[bool, typer.Option(help="With --pairs: look at the pixels for faults.")] = True,
    sample: Annotated[int, typer.Option(help="Pairs to draw, in strata, for people to judge.")] = 0,
    gallery: Annotated[int, typer.Option(help="Candidates shown as pictures.")] = 60,
    export_eccv: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=local("--export-eccv"),
            help="Audit nothing: write the verdicts as a ground truth in ECCV's layout.",
        ),
    ] = None,
    workers: UnitWorkers = None,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    unit_range: UnitRanges = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Find candidate false negatives: captions of other images that are probably true of an image.

    With --pairs find the opposite: captions of the data set that probably do not belong to their own image.

    Example: cusa audit WORK --pairs --split train

    Example, the first of sixteen tasks of an array: cusa audit WORK --split train --unit-range 0/16
    """
    from cusa.manifests.samples import Split, splits
    from cusa.pipeline.audit import stage as stage
    from cusa.pipeline.config import AuditConfig, PairsConfig
    from cusa.pipeline.pairs.neighbourhoods import Encoders

    if export_eccv is not None:
        refuse_unread(context, ("split", "export_eccv"), "--export-eccv")
        _export(work, split or splits(work), export_eccv, as_json=as_json)
        return
    if pairs:
        refuse_unread(context, ("split", "image", "text", "pairs", "pictures", "gallery"), "--pairs")
        names = split or splits(work)
        settings = validated(PairsConfig, gallery=gallery, pictures=pictures)
        with Console() as console:
            done = [
                outcome
                for name in names
                for outcome in _pairs(Split(work, name), settings, Encoders(image, text), force, console.event)
            ]
        report_outcomes(*done, as_json=as_json)
        return
    config = validated(
        AuditConfig,
        neighbours=neighbours,
        shipped=calibration != "none",
        floor=floor,
        rows=rows,
        per_image=per_image,
        minimum_score=minimum_score,
        near_image=near_image,
        near_caption=near_caption,
        leaks=leaks,
        sample=sample,
        gallery=gallery,
    )
    with Console() as console, units_shared(workers, engine, address, unit_range):
        outcomes = [
            stage.run(
                config,
                split=Split(work, name),
                encoders=Encoders(image, text, student),
                truth=truth,
                calibrated=parse_path(calibration) if calibration not in ("", "none") else None,
                ratings=ratings,
                force=force,
                on_event=console.event,
            )
            for name in split or splits(work)
        ]
    if unit_range not in ("", "merge"):
        report_outcomes(*outcomes, as_json=as_json)
        return
    report_outcomes(*outcomes, as_json=as_json, look_at=outcomes[-1].out / "gallery.html", then=f"cusa review {work}")


def _pairs(
    split: "Split", config: "PairsConfig", encoders: "Encoders", force: bool, on_event: OnEvent
) -> "list[Outcome]":
    """Look for faults of pictures and captions, then for wrong pairs."""
    from cusa.pipeline.own_pairs import issues, stage

    return [
        issues.run(config, split=split, force=force, on_event=on_event),
        stage.run(config, split=split, encoders=encoders, force=force, on_event=on_event),
    ]


def _export(work: Path, names: list[str], out: Path, *, as_json: bool) -> None:
    """Write the verdicts of one split, or of several into a folder each."""
    from cusa.manifests.judgements.verdicts import FOLDER, read
    from cusa.manifests.samples import Split
    from cusa.pipeline.audit import export_eccv as export_matches

    judged = [name for name in names if read(work / name / FOLDER)]
    if not judged:
        raise DataError(f"Nobody has judged a pair of {work}. Run `cusa review {work}`.", work=work)
    done = [export_matches.run(Split(work, name), out / name if len(judged) > 1 else out) for name in judged]
    if as_json:
        print_json([vars(one) for one in done])
        return
    for one in done:
        print_text(
            f"audit: {one.files[0].parent}: {counted(one.images, 'image')} and "
            f"{counted(one.captions, 'caption')} as queries, {one.pairs:,} true pairs, ids are {one.ids}"
        )
        for note in one.notes:
            print_text(f"  {note}")
