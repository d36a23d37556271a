"""What the operating system refuses: each kind in words with its way out, and what is no refusal passes as it is."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.storage.os_errors import named_os_errors

KINDS = {
    "The disk is full while writing": (errno.ENOSPC, errno.EDQUOT),
    "is larger than a file may be here": (errno.EFBIG,),
    "too many files are open": (errno.EMFILE, errno.ENFILE),
    "the disk failed": (errno.EIO,),
    "cannot be written": (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
}
"""Words of a message -> the errors that it is for."""


@pytest.mark.parametrize(("words", "number"), [(words, one) for words, every in KINDS.items() for one in every])
def test_named_os_errors__each_kind_says_what_to_do(tmp_path: Path, words: str, number: int) -> None:
    path = tmp_path / "not/there/a.txt"
    with pytest.raises(DataError) as caught, named_os_errors(path):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert [kind for kind in KINDS if kind in message] == [words]
    assert str(path) in message
    assert caught.value.values["path"] == path
    assert isinstance(caught.value.__cause__, OSError)


def test_named_os_errors__a_full_disk_says_how_much_is_free_where_the_file_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=3 << 20)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(DataError, match=r"a\.txt \(3 MiB free\)"), named_os_errors(tmp_path / "not/there/a.txt"):
        raise OSError(errno.ENOSPC, "full")
    assert asked == [tmp_path], "the nearest folder that there is"


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), OSError("x"), ValueError("x"), KeyError("x")])
def test_named_os_errors__others_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, named_os_errors(tmp_path):
        raise error
    assert caught.value is error
    with named_os_errors(tmp_path):
        pass
