"""Data sets in their official layouts: recognise the layout of a folder, and shard its test split into a cache."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cusa.errors import DataError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.records import Drop

_SIGNS = (
    ("sop", "Ebay_test.txt", ""),
    ("sop", "Stanford_Online_Products/Ebay_test.txt", "Stanford_Online_Products"),
    ("cub", "image_class_labels.txt", ""),
    ("cub", "CUB_200_2011/image_class_labels.txt", "CUB_200_2011"),
    ("in-shop", "list_eval_partition.txt", ""),
    ("in-shop", "Eval/list_eval_partition.txt", ""),
    ("inaturalist", "Inat_dataset_splits", ""),
    ("karpathy", "dataset_coco.json", "dataset_coco.json"),
    ("karpathy", "dataset_flickr30k.json", "dataset_flickr30k.json"),
    ("flickr8k", "Flickr8k.token.txt", ""),
    ("flickr8k", "Flickr8k_text/Flickr8k.token.txt", ""),
    ("flickr8k", "dataset_flickr8k.json", ""),
)
"""Layout of `cusa shard`, what shows it, and what is its source."""


def layout_of(folder: Path) -> tuple[str, Path] | None:
    """Return the layout a folder is in, as `cusa shard` calls it, and its source; None if it is in none of them."""
    for layout, sign, source in _SIGNS:
        if (folder / sign).exists():
            return layout, folder / source
    return None


def shard_split(
    folder: Path, *, out: Path, split: str = "test", train_classes: str = "1-100", on_event: OnEvent = ignore
) -> Path:
    """Shard one split of a data set in its official layout; unchanged, it is up to date.

    Args:
        folder: the data set.
        out: the cache; a work folder of one split.
        split: which.
        train_classes: of CUB, the classes that train; the others are tested.
        on_event: called with every finished tar.

    Returns:
        The work folder.

    Raises:
        DataError: if the folder is in no layout that this knows, or the split is empty there.
    """
    from cusa.pipeline import readers, shard
    from cusa.pipeline.config import ReadConfig, ShardConfig
    from cusa.pipeline.readers.reading import Row, Rows

    recognised = layout_of(folder)
    if recognised is None:
        raise DataError(f"{folder} is in no layout that can be evaluated on directly. Shard it first.", path=folder)
    layout, source = recognised
    images = next((place for place in (folder / "flickr30k-images",) if place.is_dir()), None)
    if images is None and layout == "karpathy":
        images = folder
    reading = readers.read(layout, source, images, ReadConfig(train_classes=train_classes))
    command = f"cusa shard {layout} {source} --out WORK"
    splits: set[str] = set()
    for row in reading.rows:
        splits.add(row.split)
        if split in splits:
            break
    if split not in splits:
        hint = " Name other classes, for example --set train_classes=1-5." if layout == "cub" else ""
        raise DataError(
            f"{folder} has no image in its {split} split (it has {', '.join(sorted(splits)) or 'none'}).{hint} "
            f"`{command}` makes a work folder of all of it.",
            path=folder,
        )

    def wanted() -> Iterator[Row]:
        return (row for row in reading.rows if row.split == split or isinstance(row, Drop))

    only = replace(reading, rows=Rows(wanted))
    shard.run(ShardConfig(), reading=only, out=out, on_event=on_event)
    return out
