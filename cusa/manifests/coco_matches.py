"""Ground-truth files in ECCV Caption's layout: COCO id of a query -> COCO ids of its right answers."""

from pathlib import Path

from cusa.errors import DataError
from cusa.manifests import store


def read(path: Path) -> dict[int, list[int]]:
    """Read one direction of a ground truth, the answers as the file has them.

    Raises:
        DataError: if the file is missing, broken, or of another layout.
    """
    content = store.read_json(path)
    try:
        return {int(query): [int(answer) for answer in answers] for query, answers in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not in ECCV Caption's layout, an object of id -> list of ids ({error}). Restore it.", path=path
        ) from error
