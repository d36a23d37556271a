"""`cusa shard`, and what its options mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cusa.cli.console import Console, point_on, print_text, report_outcomes
from cusa.cli.options import (
    AsJson,
    Columns,
    EngineAddress,
    EngineKind,
    Force,
    Wait,
    caption_sources_of,
    columns_of,
    engine_of,
    parse_place,
    validated,
)
from cusa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cusa.manifests.stage import Outcome


def shard(
    layout: Annotated[
        str,
        typer.Argument(help="How the source is laid out (`cusa list layouts`), or `subset`: a part of a work folder."),
    ],
    source: Annotated[Path, typer.Argument(parser=parse_place, help="Annotation file, or the folder that holds it.")],
    out: Annotated[Path, typer.Option(parser=parse_place, help="Work folder to write.")],
    images: Annotated[
        Path | None,
        typer.Option(
            parser=parse_place,
            help="Folder that image paths start from. Default: the source's. Of a table of URLs: what it is fetched "
            "into; default: OUT-raw.",
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Data set's name, first half of every key. Default: by the source.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split of rows that name none. Default: by the file's name.")] = "",
    split_names: Annotated[
        list[str] | None,
        typer.Option(
            "--split-name", metavar="WORD=SPLIT", help="What another word for a split means, as eval=val; repeatable."
        ),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            metavar="SPLIT=SHARE",
            help="Share of the training images that goes to another split, as val=0.1; repeatable.",
        ),
    ] = None,
    columns: Columns = None,
    caption_sources: Annotated[
        list[str] | None,
        typer.Option(
            "--caption-source",
            metavar="WHERE=SOURCE",
            help="What made the captions of which the data do not say it: human, or #3=synthetic for the image's "
            "fourth caption, #3-4=..., #3-=..., COLUMN=... of a table, txt=... or json=... of files; repeatable.",
        ),
    ] = None,
    train_classes: Annotated[str, typer.Option(help="Of CUB: the classes that train; all others test.")] = "1-100",
    max_images: Annotated[int, typer.Option(help="Images a tar at most.")] = 1000,
    max_bytes: Annotated[int, typer.Option(help="Bytes a tar at most.")] = 256 << 20,
    max_pixels: Annotated[int, typer.Option(help="Images with more pixels are dropped undecoded.")] = 100_000_000,
    check: Annotated[
        Literal["structure", "decode"], typer.Option(help="Proof that images are whole; decode is slow.")
    ] = "structure",
    resize: Annotated[int, typer.Option(help="Shorter side of larger images, re-encoded; 0 = bytes as they are.")] = 0,
    quality: Annotated[int, typer.Option(help="JPEG quality of resized images.")] = 92,
    keys: Annotated[
        Path | None, typer.Option(parser=parse_place, help="Of `subset`: a file with a key a line.")
    ] = None,
    query: Annotated[str, typer.Option("--sql", help="Of `subset`: a query whose first column is keys.")] = "",
    verdicts: Annotated[
        Literal["drop", "merge", "repair"] | None,
        typer.Option(
            help="Of `subset`: drop judged duplicates, captions true of other images too and wrong own captions; merge "
            "duplicates; or repair: put the captions that were chosen in the place of wrong ones."
        ),
    ] = None,
    max_p_wrong: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Of `subset`: leave out captions that `cusa audit --pairs` calls wrong more surely."
        ),
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            help="Of `subset`: keep captions in this language (`cusa languages`), and no others; `und` for those that "
            "nobody can tell; repeatable.",
        ),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add new images to OUT; what is there stays.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 = one a core.")] = 0,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Write images and captions as deterministic WebDataset tars with Parquet tables beside them."""
    from cusa.pipeline import readers
    from cusa.pipeline.config import ReadConfig, ShardConfig
    from cusa.pipeline.shard import stage as stage
    from cusa.workflow import download as downloading

    config = validated(
        ShardConfig,
        max_images=max_images,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        check=check,
        resize=resize,
        quality=quality,
        workers=workers,
    )
    named_sources = caption_sources_of(caption_sources or ())
    names = {**columns_of(columns or ()), "split_names": _split_names(split_names or ())}
    before: tuple[Outcome, ...] = ()
    with Console() as console:
        if layout == "subset":
            readers.refuse_own_source(source, out)
            of_all = bool(verdicts or named_sources or languages) or max_p_wrong is not None
            named = _keys(source, keys, query, every=of_all)
            reading = readers.read_subset(
                source, named, verdicts=verdicts or "", max_p_wrong=max_p_wrong, languages=languages or ()
            )
            reading = readers.with_source_rules(reading, named_sources)
        else:
            names["caption_sources"] = named_sources
            fields = validated(ReadConfig, dataset=dataset, split=split, train_classes=train_classes, **names)
            if layout == "urls" and downloading.is_table(source):
                raw = images or downloading.folder_for(out)
                fetched = downloading.fetch_for_shards(
                    source,
                    raw=raw,
                    reading=fields,
                    sharding=config,
                    engine=engine_of(engine, address),
                    on_event=console.event,
                )
                before = (fetched,)
                source, images = raw, None
                # The table's columns are known no more: fetching took their sources.
                fields = fields.model_copy(update={"caption_sources": readers.sources.by_place(named_sources)})
            reading = readers.read(layout, source, images, fields)
        if held_out:
            reading = readers.hold_out(reading, _shares(held_out))
        outcome = stage.run(
            config,
            reading=reading,
            out=out,
            append=append,
            force=force,
            engine=engine_of(engine, address),
            on_event=console.event,
        )
        outcomes, then = [*before, outcome], f"cusa extract-teachers {out} --image TEACHER --text TEACHER"
        left: list[str] = []
        if layout == "subset":
            from cusa.pipeline.extract import carry

            carried = carry.run(source, out, on_event=console.event)
            outcomes += carried
            left = carry.left_out(source, out)
            then = f"cusa index {out}" if carried and not left else then
    report_outcomes(*outcomes, as_json=as_json)
    if not as_json:
        if left:
            print_text(
                f"The rows of {', '.join(left)} could not be taken along: they are not those of the splits here."
            )
        point_on(then=then)


def _split_names(pairs: Iterable[str]) -> dict[str, str]:
    """Turn `eval=val` into `{"eval": "val"}`."""
    names = {}
    for pair in pairs:
        word, equals, split = pair.rpartition("=")
        if not (word.strip() and equals and split):
            raise ConfigError(
                f"--split-name {pair!r} is not WORD=SPLIT. One looks like eval=val.", option="--split-name"
            )
        names[word] = split
    return names


def _shares(pairs: Iterable[str]) -> dict[str, float]:
    """Turn `val=0.1` into `{"val": 0.1}`."""
    shares = {}
    for pair in pairs:
        split, equals, share = pair.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not (split and equals and value) or split in shares:
            raise ConfigError(f"--hold-out {pair!r} is not SPLIT=SHARE. One looks like val=0.1.", option="--hold-out")
        shares[split] = value
    return shares


def _keys(work: Path, file: Path | None, query: str, *, every: bool) -> list[str] | None:
    """Return the keys of a subset, from a file or a query; None for all, where something else says what is left out."""
    if every and file is None and not query:
        return None
    if (file is None) == (not query):
        raise ConfigError(
            "A subset is named by --keys FILE, --sql QUERY, --verdicts, --max-p-wrong or --language, and one of all "
            "by --caption-source: give one of them."
        )
    if file is not None:
        if not file.is_file():
            raise DataError(f"{file} does not exist. It should hold one key a line.", path=file)
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    from cusa.manifests.storage import mirror
    from cusa.pipeline.sql.database import connect

    with connect(mirror.here(work)) as database:
        return [str(row[0]) for row in database.run(query).rows]
