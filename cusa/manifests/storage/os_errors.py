"""What the operating system refuses while something is written, as named errors with the way out."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from cusa.errors import DataError


@contextlib.contextmanager
def named_os_errors(path: Path) -> Iterator[None]:
    """Turn a full or failing disk, a limit, or a folder that cannot be written into an error that says so.

    Raises:
        DataError: for these; any other OSError as it is.
    """
    try:
        yield
    except OSError as error:
        message = _message(path, error)
        if message is None:
            raise
        raise DataError(message, path=path) from error


def _message(path: Path, error: OSError) -> str | None:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            free = f"{shutil.disk_usage(_existing(path)).free / 2**20:.0f} MiB free"
            return (
                f"The disk is full while writing {path} ({free}). Nothing unfinished was left there. "
                "Free some space or choose another --out, and run the same command again."
            )
        case errno.EFBIG:
            return (
                f"{path} is larger than a file may be here: the limit of the shell (`ulimit -f`) or of the file "
                "system. Nothing unfinished was left there. Raise the limit or choose another --out, and run the same "
                "command again."
            )
        case errno.EMFILE | errno.ENFILE:
            return (
                f"{path} cannot be opened: too many files are open. Raise the limit (`ulimit -n 4096`) and run the "
                "same command again."
            )
        case errno.EIO:
            return (
                f"{path}: the disk failed ({error.strerror}). Check the disk and its mount, or choose another --out, "
                "and run the same command again."
            )
        case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EEXIST:
            return (
                f"{path} cannot be written ({error.strerror}). Choose another --out, or mend the folder's permissions."
            )
    return None


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
