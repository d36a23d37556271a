"""CUB-200-2011: tables of numbers that name each other."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import ConfigError, DataError
from cusa.manifests import keys
from cusa.manifests.records import ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, inside, lines, other_key, refused_row


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read CUB-200-2011: `images.txt`, `image_class_labels.txt`, `classes.txt`.

    The zero-shot retrieval protocol divides by class, 1-100 train and 101-200 test; `train_test_split.txt` has no part
    in it. The label is the class's name.

    Args:
        source: the folder `CUB_200_2011`.
        images: likewise, or its folder `images`.
        config: which classes train (`train_classes`), the data set's name.

    Raises:
        DataError: if a table is missing.
        ConfigError: if `train_classes` is no range.
    """
    names = [source / name for name in ("images.txt", "image_class_labels.txt", "classes.txt")]
    for path in names:
        if not path.is_file():
            raise DataError(f"{path} does not exist. Name the folder CUB_200_2011.", path=path)
    first, dash, last = config.train_classes.partition("-")
    if not (dash and first.isdigit() and last.isdigit()):
        raise ConfigError(f"--train-classes {config.train_classes!r} is no range. One looks like 1-100.")
    folder = images / "images" if (images / "images").is_dir() else images
    train = range(int(first), int(last) + 1)
    rows = Rows(lambda: _rows(names, folder, config.dataset or "cub", train))
    return Reading(config.dataset or "cub", rows, digests(source, names))


def _rows(names: list[Path], folder: Path, dataset: str, train: range) -> Iterator[Row]:
    listed, labels, classes = (
        dict(line.split(None, 1) for _, line in lines(path) if len(line.split(None, 1)) == 2) for path in names
    )
    for number, path in listed.items():
        path = path.strip()
        where = f"images.txt {number}"
        try:
            wanted = labels[number].strip()
            split = "train" if int(wanted) in train else "test"
            key = keys.image_key(dataset, Path(path).stem)
            about = (key, split, inside(folder, path), path, (), classes.get(wanted, wanted).strip())
            yield ImageRecord(*about, other_key=other_key(dataset, path))
        except (KeyError, ValueError) as error:
            yield from refused_row("train", where, error)
