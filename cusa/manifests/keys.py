"""The one key a sample carries from the first file to the last.

An image is `coco/000000391895`, its fourth caption `coco/000000391895#3`. A key holds no dot, because WebDataset cuts a
member's name at the first one, and no character that means something to a shell, a URL or a tar.
"""

import re

from cusa.errors import DataError

_IMAGE = re.compile(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,180}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def image_key(dataset: str, item: str) -> str:
    """Make the key of an image from its data set's name and its own.

    Args:
        dataset: name of the data set, for example `coco`.
        item: the image's own name or number; any character a key cannot hold becomes `_`.

    Returns:
        The key, for example `coco/000000391895`.

    Raises:
        DataError: if nothing of a name is left.
    """
    key = f"{_UNSAFE.sub('_', dataset).strip('_')}/{_UNSAFE.sub('_', item).strip('_')}"
    if not _IMAGE.fullmatch(key):
        raise DataError(
            f"No key can be made of data set {dataset!r} and item {item[:80]!r}: both need 1 to 180 letters or digits. "
            "Rename the file, or give the item a number.",
            dataset=dataset,
            item=item,
        )
    return key


def caption_key(key: str, position: int) -> str:
    """Make the key of an image's caption, counted from 0 in the data set's own order."""
    assert position >= 0, position
    return f"{key}#{position}"


def split_caption_key(key: str) -> tuple[str, int]:
    """Take a caption key apart into its image's key and its position.

    Raises:
        DataError: if `key` is not a caption key.
    """
    image, mark, position = key.rpartition("#")
    if not mark or not position.isdigit() or not _IMAGE.fullmatch(image):
        raise DataError(f"{key!r} is not a caption key. One looks like 'coco/000000391895#3'.", key=key)
    return image, int(position)
