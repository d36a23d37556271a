"""The one key a sample carries from the first file to the last.

An image is `coco/000000391895`, its fourth caption `coco/000000391895#3`. A key holds no dot, because WebDataset cuts a
member's name at the first one, and no character that means something to a shell, a URL or a tar.
"""

import hashlib
import re

from cusa.errors import DataError

_ITEM_LENGTH = 80  # with an extension it still fits the 100 bytes of a plain tar header
_IMAGE = re.compile(rf"[A-Za-z0-9_-]{{1,64}}/[A-Za-z0-9_-]{{1,{_ITEM_LENGTH}}}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_COCO_IMAGE = re.compile(r"(?:.*/)?(?:COCO_(?:[a-z]+[0-9]{4}_)?)?([0-9]{1,18})")
_COCO_CAPTION = re.compile(r"[0-9]{1,18}")


def image_key(dataset: str, item: str) -> str:
    """Make the key of an image from its data set's name and its own.

    Different items get different keys: where a character had to become `_` or a long name was cut, eight digits of the
    name's SHA-256 follow.

    Args:
        dataset: name of the data set, for example `coco`: letters, digits, `_` and `-`.
        item: the image's own name or number.

    Returns:
        The key, for example `coco/000000391895`.

    Raises:
        DataError: if the data set's name or the item is empty or unusable.
    """
    safe = _UNSAFE.sub("_", item)
    if safe != item or len(safe) > _ITEM_LENGTH:
        mark = hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        safe = f"{safe[: _ITEM_LENGTH - 9].strip('_')}-{mark}"
    key = f"{dataset}/{safe}"
    if not item or not _IMAGE.fullmatch(key):
        raise DataError(
            f"No key can be made of data set {dataset[:80]!r} and item {item[:80]!r}: a data set's name is 1 to 64 "
            "letters, digits, '_' or '-', and an item needs a name.",
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


def coco_image_id(key: str) -> int:
    """Return the COCO id that an image's key or name ends with; -1 if it ends with none.

    The one rule for all that speak of COCO's images by number: `coco/000000391895`, `coco/COCO_val2014_000000391895`
    and `COCO_val2014_000000391895` are image 391895. A number behind any other word (`coco/picture_0003`) is no id,
    since two such names may end with one number.
    """
    match = _COCO_IMAGE.fullmatch(key)
    return int(match[1]) if match else -1


def coco_caption_id(name: str) -> int:
    """Return a data set's own caption id as a COCO id; -1 if it is no number."""
    return int(name) if _COCO_CAPTION.fullmatch(name) else -1
