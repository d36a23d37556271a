"""Stanford Online Products: two lists of products and their photographs."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, inside, lines, other_key, refused_row


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read Stanford Online Products: `Ebay_train.txt` and `Ebay_test.txt`; the label is the product (`class_id`).

    Args:
        source: the folder `Stanford_Online_Products`.
        images: likewise: the folder the lists' paths start from.
        config: the data set's name.

    Raises:
        DataError: if a list is missing.
    """
    lists = {split: source / f"Ebay_{split}.txt" for split in ("train", "test")}
    for path in lists.values():
        if not path.is_file():
            raise DataError(f"{path} does not exist. Name the folder Stanford_Online_Products.", path=path)
    dataset = config.dataset or "sop"
    rows = Rows(lambda: (row for split, path in lists.items() for row in _rows(path, images, dataset, split)))
    return Reading(dataset, rows, digests(source, lists.values()))


def _rows(path: Path, images: Path, dataset: str, split: str) -> Iterator[Row]:
    for number, line in lines(path):
        if number == 1 or not line.strip():
            continue
        try:
            _, label, _, name = line.split(None, 3)
            name = name.strip()
            about = (keys.image_key(dataset, Path(name).stem), split, inside(images, name), name, (), label)
            yield ImageRecord(*about, other_key=other_key(dataset, name))
        except ValueError as error:
            yield from refused_row(split, f"{path.name}:{number}", error)
