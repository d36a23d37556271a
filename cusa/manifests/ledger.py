"""What a stage did: the record beside its output that says whether it must be done again."""

import functools
import json
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cusa.errors import DataError
from cusa.manifests.storage import seal, store
from cusa.manifests.storage.os_errors import named_os_errors
from cusa.manifests.storage.paths import is_remote, named_remote_errors

_LIBRARIES = (
    "cusa",
    "torch",
    "transformers",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "scikit-learn",
    "pyarrow",
    "duckdb",
    "numpy",
    "pillow",
)
_NOT_READ = ".tar"
"""Outputs that are too large to be read only because their time changed; whoever reads a tar compares what it reads."""


@dataclass(frozen=True)
class Ledger:
    """One finished stage."""

    stage: str
    inputs: Mapping[str, str]
    """Name of an input -> digest of its content."""
    parameters: Mapping[str, Any]
    outputs: Mapping[str, int]
    """File, relative to the ledger's folder -> its size in bytes."""
    counts: Mapping[str, int | float]
    seconds: float
    peak_memory_bytes: int
    """Largest resident size of the process, its finished children included."""
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each output."""
    modified: Mapping[str, int] = field(default_factory=dict)
    """When each output was last modified, in nanoseconds; on a store there is none. As long as size and time are those,
    the digest holds and the bytes need not be read."""
    digest: str = ""
    """SHA-256 of all the rest, see `cusa.manifests.storage.seal`."""


class Clock:
    """Measures a stage from its making to `finish`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return round(time.perf_counter() - self._start, 3)

    def finish(
        self,
        path: Path,
        *,
        stage: str,
        inputs: Mapping[str, str],
        parameters: Mapping[str, Any],
        outputs: list[Path],
        counts: Mapping[str, int | float],
        digests: Mapping[str, str] | None = None,
    ) -> Ledger:
        """Write the ledger of a finished stage to `path`, the last file a stage writes.

        Args:
            path: the ledger's file; outputs are named relative to its folder.
            stage: the command's name.
            inputs: what it read: name -> digest.
            parameters: its settings.
            outputs: the files it wrote.
            counts: figures for people: rows kept, rows dropped...
            digests: SHA-256 of outputs that are known already, by their name in the ledger; others are computed.
        """
        files = {file.relative_to(path.parent).as_posix(): file for file in sorted(outputs)}
        known = {**dict.fromkeys(files, ""), **(digests or {})}
        # Before the bytes are read: a file that is written meanwhile has another time.
        modified = {name: file.stat().st_mtime_ns for name, file in files.items() if not is_remote(file)}
        ledger = Ledger(
            stage=stage,
            inputs=dict(inputs),
            parameters=_plain(parameters),
            outputs={name: file.stat().st_size for name, file in files.items()},
            counts=dict(counts),
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            versions=_versions(),
            digests={name: known[name] or store.sha256_file(path.parent / name) for name in sorted(known)},
            modified=modified,
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        fields = seal.sealed(asdict(ledger))
        store.write_json(path, fields)
        return replace(ledger, digest=fields[seal.DIGEST])


def read(path: Path) -> Ledger | None:
    """Read a ledger; None if the stage never finished, or its ledger is unreadable or was changed since."""
    with named_remote_errors(path):
        if not path.is_file():
            return None
    try:
        ledger = Ledger(**store.read_json(path))
        if not seal.is_intact(asdict(ledger)):
            return None
    except (ValueError, TypeError):
        return None
    tables = (ledger.inputs, ledger.parameters, ledger.outputs, ledger.counts, ledger.digests, ledger.modified)
    return ledger if all(isinstance(table, dict) for table in tables) else None


def withdraw(path: Path) -> None:
    """Remove a ledger, if it is there: from now until the next one its stage's output counts as unfinished.

    Raises:
        DataError: if the folder cannot be written.
    """
    with named_os_errors(path), named_remote_errors(path):
        path.unlink(missing_ok=True)


def why_not_current(
    ledger: Ledger | None, folder: Path, *, inputs: Mapping[str, str], parameters: Mapping[str, Any]
) -> str | None:
    """Say why a stage must run; None if its output is up to date.

    Args:
        ledger: of the last time, see `read`; None if it never finished.
        folder: the ledger's folder.
        inputs: what it would read now: name -> digest.
        parameters: its settings now.

    Returns:
        A few words such as `never finished` or `train.tar changed`, or None.
    """
    if ledger is None:
        return "never finished"
    changed = [name for name in {*inputs, *ledger.inputs} if inputs.get(name) != ledger.inputs.get(name)]
    if changed:
        return f"{sorted(changed)[0]} changed"
    wanted = _plain(parameters)
    different = _first_difference(dict(ledger.parameters), wanted)
    if different is not None:
        name, before, now = different
        return f"{name} was {before!r} and is now {now!r}"
    for name, size in ledger.outputs.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if name in ledger.modified and not name.endswith(_NOT_READ):
            recorded = ledger.digests.get(name)
            if recorded and output_digest(ledger, folder, name) != recorded:
                return f"{name} was changed after it was written"
    return None


def difference(file: Path, size: int, sha256: str) -> str:
    """Say how a file differs from what was recorded of it, reading every byte; empty if it does not.

    Args:
        file: the file.
        size: bytes that were recorded.
        sha256: the recorded digest; empty = not compared.
    """
    if not file.is_file():
        return "missing"
    if (now := file.stat().st_size) != size:
        return f"{now} bytes instead of {size}"
    if sha256 and (other := store.sha256_file(file)) != sha256:
        return f"sha256 {other[:12]} instead of {sha256[:12]}"
    return ""


def refuse_changed(path: Path, names: Iterable[str] | None = None) -> None:
    """Refuse outputs of a finished stage that were changed after it wrote them; their bytes are read if their time is.

    Args:
        path: the stage's ledger; where there is none, nothing is refused.
        names: the outputs that are about to be read, relative to the ledger's folder; None = all. What the ledger does
            not name is left alone.

    Raises:
        DataError: with the name of the output.
    """
    ledger = read(path)
    if ledger is not None:
        for name in ledger.outputs if names is None else names:
            refuse_changed_output(ledger, path.parent, name)


def refuse_changed_output(ledger: Ledger | None, folder: Path, name: str) -> None:
    """Refuse one output that was changed after its stage wrote it; see `refuse_changed`.

    Args:
        ledger: of the stage; where there is none, nothing is refused.
        folder: the ledger's folder.
        name: the output, relative to it.

    Raises:
        DataError: with the name of the output.
    """
    recorded = ledger.digests.get(name, "") if ledger is not None else ""
    file = folder / name
    if ledger is None or not recorded or (file.is_file() and output_digest(ledger, folder, name) == recorded):
        return
    words = difference(file, ledger.outputs.get(name, 0), recorded)
    raise DataError(
        f"{file} was changed after `cusa {ledger.stage}` wrote it ({words}). "
        f"Restore it, or make it again with `cusa {ledger.stage} ... --force`.",
        path=file,
    )


def output_digest(ledger: Ledger | None, folder: Path, name: str) -> str:
    """Return the SHA-256 of what an output holds now.

    The recorded digest, where the file has still the recorded size and modification time; else its bytes are read.

    Args:
        ledger: of the stage that wrote it; None if there is none.
        folder: the ledger's folder.
        name: the output, relative to it.

    Raises:
        DataError: if the file lies elsewhere and cannot be read.
        OSError: if it cannot be read.
    """
    file = folder / name
    if is_remote(file):
        with named_remote_errors(file):
            state = file.fs.ukey(file.path)  # type: ignore[attr-defined]
        return _sha256(file, state)
    stat = file.stat()
    if ledger is not None and (ledger.outputs.get(name), ledger.modified.get(name)) == (stat.st_size, stat.st_mtime_ns):
        recorded = ledger.digests.get(name)
        if recorded:
            return recorded
    return _sha256(file, f"{stat.st_size} {stat.st_mtime_ns}")


@functools.lru_cache(maxsize=1 << 16)
def _sha256(file: Path, state: str) -> str:
    # A copied work folder has other times, and a store none: files are read once a process, not once a question.
    return store.sha256_file(file)


def peak_memory_bytes() -> int:
    """Return the largest resident size so far of this process or of a finished child, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Return the first key, by name, in which two nested tables differ, dotted, with both values."""
    for name in sorted({*before, *now}):
        one, other = before.get(name), now.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return _first_difference(one, other, f"{prefix}{name}.")
        return f"{prefix}{name}", one, other
    return None


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as JSON gives them back (tuples as lists), so that old and new compare."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(parameters), default=str))
    return plain


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
