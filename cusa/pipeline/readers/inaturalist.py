"""iNaturalist 2018 as image retrieval uses it: lists of paths whose folders name the category."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import (
    Reading,
    Row,
    Rows,
    digests,
    inside,
    lines,
    other_key,
    refused_row,
)
from cusa.pipeline.readers.splits import default_split


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read iNaturalist 2018's retrieval lists (`Inaturalist_train_set1.txt`, `Inaturalist_test_set1.txt`).

    One path a line, its category the folder above the file; a second column, where there is one, is the category
    instead (`iNaturalist18_val.txt`).

    Args:
        source: the folder above `Inat_dataset_splits`, that folder, or one list.
        images: the folder above `train_val2018`.
        config: the data set's name, and the split where a list's name has none.

    Raises:
        DataError: if there is no list.
    """
    folder = source / "Inat_dataset_splits" if (source / "Inat_dataset_splits").is_dir() else source
    lists = sorted(folder.glob("*_set1.txt")) if source.is_dir() else [source]
    if not lists or not lists[0].is_file():
        raise DataError(f"{source} holds no list Inat_dataset_splits/*_set1.txt and is none.", path=source)
    dataset = config.dataset or "inaturalist-2018"
    rows = Rows(lambda: (row for path in lists for row in _rows(path, images, dataset, config)))
    return Reading(dataset, rows, digests(lists[0].parent, lists))


def _rows(path: Path, images: Path, dataset: str, config: ReadConfig) -> Iterator[Row]:
    split = default_split(config, path.stem)
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            name, *category = line.split()
            label = category[0] if category else PurePosixPath(name).parts[-2]
            about = (keys.image_key(dataset, Path(name).stem), split, inside(images, name), name, (), label)
            yield ImageRecord(*about, other_key=other_key(dataset, name))
        except (ValueError, IndexError) as error:
            yield from refused_row(split, f"{path.name}:{number}", error)
