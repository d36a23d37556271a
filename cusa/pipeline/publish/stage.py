"""Exporting a work folder: a file a tar for another tool, a data card, and metadata that machines read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cusa.errors import ConfigError, nearest
from cusa.manifests import ledger, samples
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.pipeline.config import PublishConfig
from cusa.pipeline.engine import Workers, run_units
from cusa.pipeline.publish import croissant, facts, parquet, webdataset
from cusa.pipeline.publish.card import card
from cusa.pipeline.publish.rows import Part
from cusa.pipeline.readers import refuse_own_source


@dataclass(frozen=True)
class Target:
    """One kind of export: a file for each tar of the work folder."""

    write: Callable[[Part], int]
    """Writes one file, unless it is there already; returns its samples."""
    file: str
    """Name of a file, of its split, its number and how many there are."""
    encoding: str
    """MIME type."""
    how: str
    """Python that loads the folder."""


TARGETS = {
    "parquet": Target(
        parquet.write,
        "data/{split}-{number:05d}-of-{total:05d}.parquet",
        "application/x-parquet",
        "from datasets import load_dataset\n\ndata = load_dataset(FOLDER)  # each row: image, captions, key...",
    ),
    "webdataset": Target(
        webdataset.write,
        "data/{split}-{number:05d}.tar",
        "application/x-tar",
        "import webdataset\n\ndata = webdataset.WebDataset(TARS).decode('pil').to_tuple('jpg;png;webp', 'json')",
    ),
}
"""Kinds of export by name, as `cusa export WORK --to` takes them."""

_FOLDER = "data"


def run(
    config: PublishConfig,
    *,
    work: Path,
    to: str,
    out: Path,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Outcome:
    """Write a work folder for another tool, with `README.md` (the data card) and `croissant.json`.

    Args:
        config: what the card says of the data, and processes.
        work: the work folder.
        to: one of `TARGETS`.
        out: the folder; what an earlier export left there is replaced.
        force: write it again.
        on_event: called with every finished file.

    Raises:
        ConfigError: for another kind of export, or a folder within the work folder.
        DataError: if the work folder holds no split, or a tar is damaged.
    """
    if to not in TARGETS:
        raise ConfigError(f"There is no export to {to!r}. {nearest(to, TARGETS)}.", to=to)
    refuse_own_source(work, out)
    target = TARGETS[to]
    names = samples.splits(work)
    ledger.refuse_changed(
        work / "shard.ledger.json", [f"{name}/{file}" for name in names for file in samples.SPLIT_FILES]
    )
    known = facts.gather(work, name=config.name, licence=config.licence, url=config.url)
    opened = [Split(work, name) for name in names]
    inputs = {split.name: split.digest for split in opened} | {"facts": store.digest(repr(known))}
    parameters = {"to": to, **config.model_dump(exclude={"workers"})}
    stage = StageRun("export", out / "ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    parts = [part for split in opened for part in _parts(split, target, to, out)]
    with stage.begin():
        store.make_folder(out / _FOLDER)
        store.sweep(out / _FOLDER)
        _remove_older(stage, parts, out, force=force)
        written = run_units(
            target.write, parts, what="export", workers=Workers(config.workers), weigh=_weight, on_event=on_event
        )
        described = {name: [_described(part, out) for part in parts if part.split == name] for name in names}
        patterns = {
            name: str(Path(files[0][0]).with_name(f"{name}-*{Path(files[0][0]).suffix}"))
            for name, files in described.items()
            if files
        }
        store.write_text(out / "README.md", card(known, data_files=patterns, how=target.how))
        store.write_json(out / "croissant.json", croissant.metadata(known, described, encoding=target.encoding))
        return stage.finish(
            outputs=[*(part.file for part in parts), out / "README.md", out / "croissant.json"],
            counts={
                "images": sum(written),
                "captions": sum(split.num_captions for split in opened),
                "files": len(parts),
            },
            digests={path: sha256 for files in described.values() for path, sha256, _ in files},
        )


def _weight(part: Part) -> int:
    return len(part.images)


def _parts(split: Split, target: Target, to: str, out: Path) -> list[Part]:
    tars = split.shard_rows()
    parts = []
    for number, (_, sha256, _, _) in enumerate(tars):
        name = target.file.format(split=split.name, number=number, total=len(tars))
        # The tables as well: captions that were dropped later, and roles and sources, do not change the tar.
        made_of = store.digest([to, sha256, split.digest])
        parts.append(Part(split.work, split.name, number, out / name, made_of, split.digest))
    return parts


def _remove_older(stage: StageRun, parts: Sequence[Part], out: Path, *, force: bool) -> None:
    """Remove files of an earlier export that this one does not write; with `force`, all of them."""
    wanted = set() if force else {part.file for part in parts}
    older: Mapping[str, int] = stage.before.outputs if stage.before else {}
    for file in [out / name for name in older] + sorted((out / _FOLDER).glob("*")):
        if file.parent == out / _FOLDER and file not in wanted and file.suffix in (".parquet", ".tar"):
            file.unlink(missing_ok=True)


def _described(part: Part, out: Path) -> tuple[str, str, int]:
    """Return a file's path in the export, its SHA-256 and its bytes."""
    return part.file.relative_to(out).as_posix(), store.sha256_file(part.file), part.file.stat().st_size
