"""From a data set's own files to image records: one file a layout, every row kept or dropped with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests.records import ImageRecord
from cusa.manifests.storage.paths import named_remote_errors
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import (
    coco,
    cub,
    flickr,
    flickr8k,
    folder,
    hub,
    inaturalist,
    inshop,
    karpathy,
    regions,
    release,
    sop,
    sources,
    sts,
    table,
    urls,
    webdataset,
)
from cusa.pipeline.readers.hold_out import hold_out
from cusa.pipeline.readers.reading import Reading, refuse_own_source
from cusa.pipeline.readers.sources import SourceRules
from cusa.pipeline.readers.splits import split_option
from cusa.pipeline.readers.work import read_subset

__all__ = ["READERS", "Reading", "hold_out", "read", "read_subset", "refuse_own_source", "sources", "with_source_rules"]

READERS: dict[str, Callable[[Path, Path, ReadConfig], Reading]] = {
    "karpathy": karpathy.read,
    "coco": coco.read,
    "release": release.read,
    "flickr": flickr.read,
    "flickr8k": flickr8k.read,
    "table": table.read,
    "folder": folder.read,
    "webdataset": webdataset.read,
    "hub": hub.read,
    "urls": urls.read,
    "cub": cub.read,
    "sop": sop.read,
    "in-shop": inshop.read,
    "inaturalist": inaturalist.read,
    "sts": sts.read,
    "regions": regions.read,
}
"""Layouts by name, as `cusa shard` takes them."""


def read(layout: str, source: Path, images: Path | None = None, config: ReadConfig | None = None) -> Reading:
    """Read a data set.

    Args:
        layout: one of `READERS`.
        source: the annotation file, or the folder that holds it.
        images: the folder that the annotation's paths start from; when None the source, or its folder, or `images`
            there, where the first image lies.
        config: what the reader cannot see in the files.

    Raises:
        ConfigError: if there is no such layout, or a split's name cannot be a folder's.
        DataError: if the annotation cannot be read at all.
    """
    if layout not in READERS:
        raise ConfigError(f"There is no layout {layout!r}. {nearest(layout, READERS)}", layout=layout)
    config = config or ReadConfig()
    rules = SourceRules(config.caption_sources)
    if layout not in NAMED_SOURCES:
        rules.refuse_others((), "columns or endings")
    notes: tuple[str, ...] = ()
    for option, value in [("--split", config.split), *(("--split-name", name) for name in config.split_names.values())]:
        split_option(value, option)
    with named_remote_errors(source):
        guess = images is None
        if images is None:
            images = source if source.is_dir() else source.parent
        if not images.is_dir():
            raise DataError(f"The image folder {images} does not exist. Give it with --images.", path=images)
        if layout in ANNOTATIONS and source.is_dir():
            source = _only_annotation(source, ANNOTATIONS[layout])
            notes += (f"Of the folder {source.parent}, {source.name} was read.",)
        reading = READERS[layout](source, images, config)
        beside = images / "images"
        if guess and beside.is_dir() and not _finds_its_first_image(reading):
            other = READERS[layout](source, beside, config)
            if _finds_its_first_image(other):
                reading = other
                notes += (f"Images were found in {beside}, beside {source.name}. --images names another folder.",)
        return rules.fill(replace(reading, notes=reading.notes + notes))


NAMED_SOURCES = ("table", "hub", "folder", "webdataset")
"""Layouts whose captions come from columns or from files of an ending, which rules for their sources can name."""


def with_source_rules(reading: Reading, rules: Mapping[str, str]) -> Reading:
    """Return a reading of a work folder whose captions without a source have one by rules; see `SourceRules`.

    Raises:
        ConfigError: if a rule is none, or names a column.
    """
    checked = SourceRules(rules)
    checked.refuse_others((), "columns or endings")
    return checked.fill(reading)


ANNOTATIONS = {"karpathy": (".json",), "table": table.KINDS}
"""Layouts of one annotation file -> its endings: a folder may be given where just one such file lies."""


def _only_annotation(folder: Path, endings: tuple[str, ...]) -> Path:
    """Return the one annotation file of a folder.

    Raises:
        DataError: if there is none, or several.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in endings and file.is_file())
    if len(files) != 1:
        there = ", ".join(file.name for file in files[:5]) or "none"
        raise DataError(
            f"{folder} is a folder, and of files ending in {', '.join(endings)} it has {there}. Name the annotation "
            "file.",
            path=folder,
        )
    return files[0]


def _finds_its_first_image(reading: Reading) -> bool:
    """Tell whether the first image of a reading is where it should be; true for one without images."""
    first = next((row for row in reading.rows if isinstance(row, ImageRecord)), None)
    return first is None or first.path is None or first.path.is_file()
