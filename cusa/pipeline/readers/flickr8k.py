"""Flickr8k as its makers and Karpathy gave it: the token file with three lists of splits, or one JSON file."""

from pathlib import Path

from cusa.errors import DataError
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import flickr, karpathy
from cusa.pipeline.readers.reading import Reading

TOKENS = "Flickr8k.token.txt"
KARPATHY = "dataset_flickr8k.json"
LISTS = tuple(f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test"))
_TEXTS = (".", "Flickr8k_text")
_IMAGES = ("Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
"""Where the archives' contents lie, as they come (the makers spelt it so) and as people unpack them."""


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read Flickr8k: the folder, its token file beside the three lists of splits, or Karpathy's JSON.

    The token file comes first where a folder has both, since the human judgements name its captions. An image that no
    list names is refused, unless `--split` says where it goes.

    Args:
        source: the folder, `Flickr8k.token.txt` or `dataset_flickr8k.json`.
        images: the folder of the images, or the one above `Flicker8k_Dataset`.
        config: the data set's name, and the split of images that no list names.

    Raises:
        DataError: if the folder has neither file, or a list of a split is missing.
    """
    file = annotation(source) if source.is_dir() else source
    if file is None:
        raise DataError(
            f"{source} has neither {TOKENS} nor {KARPATHY}. Give the folder that has one of them; a table of captions "
            "such as captions.txt is of the layout `table`.",
            path=source,
        )
    folder = next((images / name for name in _IMAGES if (images / name).is_dir()), images)
    config = config.model_copy(update={"dataset": config.dataset or "flickr8k"})
    if file.suffix == ".json":
        return karpathy.read(file, folder, config)
    missing = [name for name in LISTS if not (file.parent / name).is_file()]
    if missing and not config.split:
        raise DataError(
            f"{file.parent} lacks {', '.join(missing)}, so the split of its images is not known. Put the official "
            "lists beside the token file, or say with --split where images go that no list names.",
            path=file,
        )
    return flickr.read(file, folder, config)


def annotation(folder: Path) -> Path | None:
    """Return the annotation file of a folder, the token file first; None if it has none."""
    places = (folder / below / name for name in (TOKENS, KARPATHY) for below in _TEXTS)
    return next((place for place in places if place.is_file()), None)
