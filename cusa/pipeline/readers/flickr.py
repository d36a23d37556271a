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
    name has the split), divide the images; those that no list names go to the given split, else to `train`.

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
    rows = Rows(lambda: _rows(source, images, dataset, default_split(config), splits))
    return Reading(dataset, rows, digests(source.parent, [source, *splits]))


def _is_list(path: Path) -> bool:
    """Tell whether a text file is a list of names: no line of it holds a blank or a tab."""
    return not any(set(line.strip()) & {"\t", " ", "#"} for _, line in lines(path))


def _rows(source: Path, images: Path, dataset: str, default: str, lists: dict[Path, str]) -> Iterator[Row]:
    splits = {
        Path(line.strip()).stem: split for path, split in lists.items() for _, line in lines(path) if line.strip()
    }
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
        split = splits.get(Path(name).stem, default)
        try:
            about = (keys.image_key(dataset, Path(name).stem), split, inside(images, name), name, tuple(captions))
            yield ImageRecord(*about, other_key=other_key(dataset, name))
        except ValueError as error:
            yield Drop(split, "", name, "image", "bad-row", str(error))
            for lost in captions:
                yield Drop(split, "", name, "caption", "bad-row", f"its image was dropped: {lost.text[:200]!r}")
