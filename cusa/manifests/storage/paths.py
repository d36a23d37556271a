"""Where things lie: a path on this machine, or a URL that fsspec opens (`s3://`, `gs://`, `hf://`, `memory://`...).

A place is what `pathlib.Path` is: it joins with `/`, opens, globs and unlinks. One that lies elsewhere is a `UPath`,
which does the same; only what the operating system alone can do (file descriptors, renames, fsync) needs `is_remote`.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, CusaError, DataError, nearest

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs", "http": "aiohttp", "https": "aiohttp"}


def place(text: str | Path) -> Path:
    """Return the place that a user names.

    Args:
        text: a path, see `expand`, or a URL such as `s3://bucket/folder`. Credentials come from the environment, as
            the store's own tools read them; a URL that holds any is refused.

    Raises:
        ConfigError: if no file system answers to the URL's scheme, or the URL holds a password; for `hf://` where the
            hub's client was told to stay offline.
    """
    if not isinstance(text, str):
        return text
    scheme = _URL.match(text)
    if not scheme:
        return expand(text)
    name = scheme[1].lower()
    if name == "file":
        return Path(text[len(scheme[0]) :])
    if "@" in text[scheme.end() :].partition("/")[0]:
        raise ConfigError(
            f"The {name} URL holds credentials, which would end up in ledgers and logs. Leave them out of the URL and "
            "put them into the environment.",
            scheme=name,
        )
    if name == "hf" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(
            f"{text} lies on the hub, and HF_HUB_OFFLINE forbids to ask it. Unset that, or bring the data here first: "
            "`hf download --repo-type dataset OWNER/NAME --local-dir FOLDER`, then give the folder.",
            scheme=name,
        )
    from fsspec.registry import known_implementations, registry
    from upath import UPath

    if name not in known_implementations and name not in registry:
        raise ConfigError(
            f"No file system answers to {name}://. {nearest(name, ('s3', 'gs', 'hf', 'az', 'file'))}", scheme=name
        )
    # Listings are not kept: another process may have written since.
    remote: Any = UPath(f"{name}{text[len(name) :]}", use_listings_cache=False)
    try:
        _ = remote.fs
    except ImportError as error:
        package = _EXTRAS.get(name, "")
        raise ConfigError(
            f"{name}:// needs a package that is not installed ({error}). "
            f"{f'Run `pip install {package}`.' if package else 'Install it.'}",
            scheme=name,
        ) from error
    opened: Path = remote
    return opened


def expand(text: str) -> Path:
    """Return a path of this machine; `~` is the home folder, also where no shell expanded it (`--out=~/work`).

    Raises:
        ConfigError: if `~NAME` names nobody, or there is no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{text}: there is no such home folder ({error}). Write the whole path, or ./{text} for a folder of that "
            "name.",
            path=text,
        ) from error


def refuse_undecodable(path: Path) -> None:
    """Refuse a folder whose name is no text: Parquet, JSON and the files of models are opened and recorded by text.

    Raises:
        ConfigError: if a part of the path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"The path {str(path)!r} is not UTF-8 (\\udc.. stands for a byte that is no text), and what is written "
            "there could not be read by others. Give the folder another name.",
            path=ascii(str(path)),
        ) from None


def is_remote(path: object) -> bool:
    """Tell whether a place lies elsewhere than on this machine."""
    return not isinstance(path, str | Path) and hasattr(path, "fs")


@contextlib.contextmanager
def named_remote_errors(path: Path) -> Iterator[None]:
    """Turn what a store answers (no such bucket, no right, no credentials, no connection) into one clear error.

    Raises:
        DataError: naming the place and the way out.
    """
    try:
        yield
    except CusaError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise DataError(f"{path}: {_why(path, error)}", path=path) from error


def _why(path: Path, error: Exception) -> str:
    root = str(path).split("/", 3)
    bucket = "/".join(root[:3])
    words = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
    code = _code(error)
    if isinstance(error, PermissionError) or code in ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId"):
        return (
            f"the store refused ({words}). Check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY or AWS_PROFILE) and their rights on {bucket}."
        )
    if "Credentials" in type(error).__name__:
        return (
            f"no credentials ({words}). Put them into the environment (for S3: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)."
        )
    if code == "NoSuchBucket" or "bucket does not exist" in words.lower():
        return f"there is no bucket {bucket}. Make it, or mend the URL; buckets are not made here."
    if isinstance(error, FileNotFoundError):
        return f"it does not exist ({words}). Check the URL; a missing bucket says the same."
    return f"the store cannot be reached or answered wrongly ({words}). Check the URL, the endpoint and the network."


def _code(error: BaseException | None) -> str:
    """Return the store's own word for an error, looked for down the chain of causes."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def without_folders(words: str) -> str:
    """Return words with every absolute path cut to its last part: a page is read on other machines.

    Args:
        words: a sentence, or a path; words that begin with one slash and hold no second one stay as they are.
    """
    return re.sub(r"(?<![\w./:~-])(?:/|~/|[A-Za-z]:\\)(?:[^\s/\\]+[/\\])+([^\s/\\]+)", r"\1", words)
