"""A work folder that lies elsewhere, as a folder on this machine: its tables copied, its tars fetched when read.

What maps files into memory or asks an SQL engine (training, evaluation, reports) needs files of this machine. The
mirror of a work folder has all of its small files; a tar comes whole when its first image is read, is checked against
its digest, and makes room again when others need it. `CUSA_CACHE` names the folder of all mirrors (default:
`~/.cache/cusa`), `CUSA_CACHE_GIB` what its tars may take (default: 50). Tars are named by their digest, so several
mirrors, runs and ranks share them.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cusa.errors import ConfigError, DataError
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import is_remote, named_remote_errors, place

NOTE = "mirror.json"
"""In a mirror: where its work folder lies, and what each file was when it was copied."""
_NOT_COPIED = (".tar", ".faiss", ".html")
_NOT_SHARED = ("cache", ".units", "runs")  # folders: what this package builds on a machine, what is being made
_lock = threading.Lock()


def here(work: Path, *, on_event: OnEvent = ignore) -> Path:
    """Return a work folder on this machine: itself, or its mirror, whose tables are brought up to date first.

    Args:
        work: the work folder, wherever it lies.
        on_event: called with every file that is copied.

    Raises:
        DataError: if it does not exist, or cannot be read.
        ConfigError: if `CUSA_CACHE_GIB` is no positive number.
    """
    if not is_remote(work):
        return work
    _budget()  # refuse a bad one before anything is copied
    folder = cache_folder() / "mirrors" / f"{work.name}-{hashlib.sha256(str(work).encode()).hexdigest()[:12]}"
    with named_remote_errors(work):
        states = dict(_files(work))
    if not states:
        raise DataError(f"{work} does not exist or is empty. Check the URL.", path=work)
    note = folder / NOTE
    old = _read(note).get("files", {})
    changed = [name for name, tag in states.items() if old.get(name) != tag or not (folder / name).is_file()]
    if changed or old.keys() != states.keys():
        # A mirror that is half one state and half another is none. Its files are remembered: whoever goes on after a
        # kill takes away what is gone there, and copies only the rest.
        whole = states.keys() - changed
        store.write_json(note, {"files": {name: states[name] if name in whole else None for name in {**old, **states}}})
        for name in old.keys() - states.keys():
            (folder / name).unlink(missing_ok=True)
        for number, name in enumerate(changed, 1):
            _fetch(work / name, folder / name)
            on_event("copy tables", number, len(changed))
    store.write_json(note, {"work": str(work), "files": states})
    return folder


def origin(work: Path) -> Path | None:
    """Return where the work folder of a mirror lies; None if the folder is no mirror."""
    origin_url = None if is_remote(work) else _read(work / NOTE).get("work")
    return None if origin_url is None else place(str(origin_url))


def cache_folder() -> Path:
    """Return the folder of all mirrors and tars on this machine."""
    return Path(os.environ.get("CUSA_CACHE") or "~/.cache/cusa").expanduser()


def read_tar(tar: Path, sha256: str, offset: int, size: int) -> bytes:
    """Return a range of the bytes of a tar that lies elsewhere, from its copy here, which is fetched if need be.

    Args:
        tar: where it lies.
        sha256: its digest.
        offset: of the first byte.
        size: how many.

    Raises:
        DataError: if it cannot be fetched, or is another one than its digest says.
    """
    copy = cache_folder() / "tars" / f"{sha256}.tar"
    while True:
        try:
            descriptor = os.open(copy, os.O_RDONLY)
        except FileNotFoundError:
            with _lock:  # one thread fetches; another process may do the same, to the same bytes
                if not copy.is_file():
                    with named_remote_errors(tar):
                        room = tar.stat().st_size
                    _make_room(copy.parent, room)
                    _fetch(tar, copy, sha256=sha256)
            continue  # it may have made room for another one already
        try:
            os.utime(descriptor)  # what was read last goes last
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


def _files(work: Path) -> Iterator[tuple[str, list[Any]]]:
    """Give the small files of a work folder, each with what tells one state of it from another."""
    fs, root = work.fs, work.path.rstrip("/")  # type: ignore[attr-defined]
    for path, info in fs.find(root, detail=True).items():
        name = path[len(root) :].lstrip("/") if path.startswith(root) else path.lstrip("/")[len(root.lstrip("/")) + 1 :]
        parts = name.split("/")
        if parts[-1].endswith(_NOT_COPIED) or set(parts[:-1]) & set(_NOT_SHARED):
            continue
        state = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
        yield name, [info.get("size"), str(state or info.get("created") or "")]


def _fetch(source: Path, target: Path, *, sha256: str = "") -> None:
    with store.whole_file(target) as temporary:
        with named_remote_errors(source):
            source.fs.get_file(source.path, str(temporary))  # type: ignore[attr-defined]
        if sha256 and (actual := store.sha256_file(temporary)) != sha256:
            raise DataError(
                f"{source} is another tar than its table says (sha256 {actual[:12]} instead of {sha256[:12]}). Run "
                "`cusa verify` on its work folder, and `cusa shard ... --force` if it is broken.",
                path=source,
            )


def _make_room(folder: Path, size: int) -> None:
    """Remove the tars that were read longest ago until another one fits."""
    there = []
    for path in folder.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):  # another process made room
            stat = path.stat()
            there.append((stat.st_mtime_ns, stat.st_size, path))
    total, allowed = sum(row[1] for row in there), _budget()
    for _, bytes_, path in sorted(there):
        if total + size <= allowed:
            return
        path.unlink(missing_ok=True)
        total -= bytes_


def _budget() -> int:
    """Return the bytes that tars may take; one larger than all of it is still fetched, alone."""
    setting = os.environ.get("CUSA_CACHE_GIB", "50")
    try:
        gib = float(setting)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise ConfigError(
            f"CUSA_CACHE_GIB is {setting!r}; allowed: a positive number of GiB, for example 50.", key="CUSA_CACHE_GIB"
        )
    return int(gib * 2**30)


def _read(note: Path) -> dict[str, Any]:
    try:
        content = store.read_json(note)
    except (OSError, DataError):
        return {}
    return content if isinstance(content, dict) else {}
