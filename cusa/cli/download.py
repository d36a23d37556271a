"""`cusa download`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cusa.cli.console import Console, report_outcomes
from cusa.cli.options import (
    AsJson,
    Columns,
    EngineAddress,
    EngineKind,
    Force,
    Settings,
    Wait,
    columns_of,
    engine_of,
    local,
    parse_path,
    refuse_unread,
    validated,
)
from cusa.errors import ConfigError


def download(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="Data set (`cusa list datasets` shows them), a manifest's TOML file, or a table of URLs (CSV, TSV, "
            "JSONL, Parquet)."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=local("--out"), help="Folder for the raw files.")],
    lock: Annotated[
        Path | None, typer.Option(parser=parse_path, help="`lock.json` of another machine: the files must be the same.")
    ] = None,
    retry: Annotated[Literal["failed"] | None, typer.Option(help="Try only the files or URLs that failed.")] = None,
    columns: Columns = None,
    dataset: Annotated[str, typer.Option(help="Of a table of URLs: the data set's name. Default: the file's.")] = "",
    split: Annotated[str, typer.Option(help="Of a table of URLs: split of rows that name none.")] = "",
    settings: Settings = None,
    engine: EngineKind = "local",
    address: EngineAddress = "",
    force: Force = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Bring a data set's raw files, checked and unpacked. `scenes` is drawn here and now, from a seed. Of a table of
    URLs the pictures are fetched, each kept or dropped with its reason.
    """
    from cusa.pipeline.config import ReadConfig, UrlsConfig
    from cusa.workflow import download as downloading

    with Console() as console:
        if downloading.is_table(Path(name)):
            from cusa import recipe
            from cusa.pipeline import urls as fetching

            if lock is not None:
                raise ConfigError("--lock is of manifests: of URLs the table has the digests.", option="--lock")
            outcome = fetching.run(
                recipe.section(UrlsConfig, settings or ()),
                table=parse_path(name),
                out=out,
                reading=validated(ReadConfig, dataset=dataset, split=split, **columns_of(columns or ())),
                retry=bool(retry),
                force=force,
                engine=engine_of(engine, address),
                on_event=console.event,
            )
            then = f"cusa shard urls {out} --out WORK"
        else:
            refuse_unread(context, ("name", "out", "lock", "retry", "settings"), "A data set that has a manifest")
            outcome = downloading.download(
                name,
                out=out,
                lock=lock,
                only_failed=bool(retry),
                settings=settings or (),
                force=force,
                on_event=console.event,
            )
            then = "" if as_json else downloading.next_command(name, out)
    report_outcomes(outcome, as_json=as_json, look_at=out / "index.html", then=then)
