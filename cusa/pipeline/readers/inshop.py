"""DeepFashion's In-Shop Clothes Retrieval: one list that divides items into train, query and gallery."""

from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import keys
from cusa.manifests.records import ImageRecord
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.reading import Reading, Row, Rows, digests, inside, lines, refused_row

_SPLITS = {"train": ("train", ""), "query": ("test", "query"), "gallery": ("test", "gallery")}


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read In-Shop Clothes Retrieval: `Eval/list_eval_partition.txt`; queries and gallery are the two roles of `test`.

    Args:
        source: the folder above `Eval` and `Img`, or the list itself.
        images: the folder above `Img`, or `Img`: where the list's `img/...` lies.
        config: the data set's name.

    Raises:
        DataError: if the list is missing or of another form.
    """
    path = source / "Eval/list_eval_partition.txt" if source.is_dir() else source
    header = [line.split() for _, line in zip(range(2), (line for _, line in lines(path)), strict=False)]
    if len(header) < 2 or header[1] != ["image_name", "item_id", "evaluation_status"]:
        raise DataError(f"{path} is no In-Shop list: its second line names the columns.", path=path)
    folder = images / "Img" if (images / "Img").is_dir() else images
    dataset = config.dataset or "in-shop"
    return Reading(dataset, Rows(lambda: _rows(path, folder, dataset)), digests(path.parent, [path]))


def _rows(path: Path, images: Path, dataset: str) -> Iterator[Row]:
    for number, line in lines(path):
        if number <= 2 or not line.strip():
            continue
        try:
            name, label, status = line.split()
            if status not in _SPLITS:
                raise ValueError(f"status {status!r} is none of {', '.join(_SPLITS)}")
            split, role = _SPLITS[status]
            item = name.removeprefix("img/").removesuffix(Path(name).suffix)
            yield ImageRecord(keys.image_key(dataset, item), split, inside(images, name), name, (), label, role)
        except ValueError as error:
            yield from refused_row("train", f"{path.name}:{number}", error)
