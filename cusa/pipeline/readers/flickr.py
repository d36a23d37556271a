"""Flickr8k's and Flickr30k's token file: one caption a line, and lists of file names that say the split."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, inside, lines, other_key
from cusa.pipeline.readers.splits import default_split, named_split


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a Flickr token file: `<file>#<0-4><TAB><caption>`.

    Lists of file names beside it, with or without extension (`Flickr_8k.trainImages.txt`, `train.txt`...: the list's
    name has the split), divide the images. An image that no list names goes to the given split; without one it is
    refused, and so is a name that two lists of different splits have. Without lists, all go to the given split or
    `train`.

    Args:
        source: for example `results_20130124.token`.
        images: the folder of the images.
        config: the data set's name, and the split of images that no list names.

    Raises:
        DataError: if the file is missing or holds no line of this form.
    """
    if not any("\t" in line for _, line in lines(source)):
        raise DataError(f"{source} is no token file: it needs lines of '<file>#<number><TAB><caption>'.", path=source)
    dataset = config.dataset or ("flickr8k" if "8k" in source.name.lower() else "flickr30k")
    lists = {path: named_split(path.stem) for path in sorted(source.parent.glob("*.txt")) if path != source}
    splits = {path: split for path, split in lists.items() if split and _is_list(path)}
    rows = Rows(lambda: _rows(source, images, dataset, config, splits))
    return Reading(dataset, rows, digests(source.parent, [source, *splits]))


def _is_list(path: Path) -> bool:
    """Tell whether a text file is a list of names: no line of it holds a blank or a tab."""
    return not any(set(line.strip()) & {"\t", " ", "#"} for _, line in lines(path))


def _rows(source: Path, images: Path, dataset: str, config: ReadConfig, lists: dict[Path, str]) -> Iterator[Row]:
    default = default_split(config)
    listed = _listed(lists)
    captions_by_name: dict[str, list[CaptionRecord]] = {}
    for number, line in lines(source):
        name, tab, caption = line.partition("\t")
        name, mark, position = name.rpartition("#")
        if not (tab and mark and name and position.isdigit()):
            if line.strip():
                detail = f"not '<file>#<number><TAB><caption>': {line[:200]!r}"
                yield Drop(default, "", f"{source.name}:{number}", "caption", "bad-row", detail)
            continue
        captions_by_name.setdefault(name, []).append(CaptionRecord(f"{name}#{position}", caption))
    for name, captions in captions_by_name.items():
        splits = listed.pop(Path(name).stem, {})
        split = next(iter(splits), default)
        if len(splits) > 1:
            detail = f"the lists of {' and '.join(splits)} both name it"
            yield from _refused(split, name, captions, "no-split", detail)
        elif not splits and lists and not config.split:
            yield from _refused(
                split, name, captions, "no-split", f"none of {', '.join(p.name for p in lists)} names it"
            )
        else:
            try:
                about = (keys.image_key(dataset, Path(name).stem), split, inside(images, name), name, tuple(captions))
                yield ImageRecord(*about, other_key=other_key(dataset, name))
            except ValueError as error:
                yield from _refused(split, name, captions, "bad-row", str(error))
    for splits in listed.values():
        for split, name in splits.items():
            yield Drop(split, "", name, "image", "no-captions", f"{source.name} has no caption of it")


def _listed(lists: dict[Path, str]) -> dict[str, dict[str, str]]:
    """Return for each name of the lists, without its extension, the splits that name it and how each writes it."""
    listed: dict[str, dict[str, str]] = {}
    for path, split in lists.items():
        for _, line in lines(path):
            if name := line.strip():
                listed.setdefault(Path(name).stem, {}).setdefault(split, name)
    return listed


def _refused(split: str, name: str, captions: list[CaptionRecord], reason: str, detail: str) -> Iterator[Drop]:
    yield Drop(split, "", name, "image", reason, detail)
    for lost in captions:
        yield Drop(split, "", name, "caption", reason, f"its image was dropped: {lost.text[:200]!r}")
