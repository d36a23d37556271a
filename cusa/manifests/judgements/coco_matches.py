"""Ground-truth files in ECCV Caption's layout: id of a query -> ids of its right answers; COCO's ids, or our keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cusa.errors import DataError
from cusa.manifests.storage import store

IMAGE_TO_CAPTION = "{}_image_to_caption.json"
CAPTION_TO_IMAGE = "{}_caption_to_image.json"


def read(path: Path) -> dict[int, list[int]]:
    """Read one direction of a ground truth of COCO's, the answers as the file has them.

    Raises:
        DataError: if the file is missing, broken, or of another layout.
    """
    return _read(path, int)


def read_named(path: Path) -> dict[str, list[str]]:
    """Read one direction of any ground truth, ids that are numbers without leading zeros.

    Raises:
        DataError: if the file is missing, broken, or of another layout.
    """
    return _read(path, _name)


def _name(value: int | str) -> str:
    if not isinstance(value, int | str):
        raise TypeError(f"an id is {value!r}")
    if str(value).isdecimal():
        return str(int(value))
    if "/" not in str(value):
        raise ValueError(f"{value!r} is neither a number nor a key")
    return str(value)


Id = TypeVar("Id", int, str)


def _read(path: Path, as_id: Callable[[Any], Id]) -> dict[Id, list[Id]]:
    content = store.read_json(path)
    try:
        return {as_id(query): [as_id(answer) for answer in answers] for query, answers in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not in ECCV Caption's layout, an object of id -> list of ids ({error}). Restore it.", path=path
        ) from error
