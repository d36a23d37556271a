"""Objects of large arrays as a folder that many processes map into memory: `.npy` files, and JSON for all the rest.

What a stage computes once (rows, neighbours, statistics) is packed, and each of its workers opens it: the arrays stay
in the file, shared by all workers of a machine, and only what a worker reads is in memory. No code comes from the
folder: an object is made again of a class that the reader names, its attributes set to what was written.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cusa.errors import DataError
from cusa.manifests.storage import arrays, seal, store
from cusa.manifests.storage.paths import is_remote, named_remote_errors

INDEX = "packed.json"
"""The file that is written last: a folder without it was not finished."""
_READ_WHOLE = 1 << 16  # bytes up to which an array is read and not mapped


@dataclass(frozen=True)
class Packed:
    """An object taken apart.

    Attributes:
        tree: the object as JSON, arrays by their number.
        arrays: the arrays, each once.
        checksums: of their numbers, shapes and types.
    """

    tree: Any
    arrays: Sequence[np.ndarray]
    checksums: Sequence[str]

    @property
    def digest(self) -> str:
        """A digest of every number in the object."""
        return store.digest([self.tree, *self.checksums])


def pack(value: object, *, classes: Sequence[type], outside: Mapping[str, object]) -> Packed:
    """Take an object apart.

    Args:
        value: of arrays, numbers, words, lists, tuples and mappings, and of objects of `classes`.
        classes: classes of objects that may occur; their attributes are packed.
        outside: objects that are not packed but named; the reader supplies them.

    Raises:
        TypeError: if anything else occurs.
    """
    arrays: list[np.ndarray] = []
    numbers: dict[int, int] = {}
    names = {id(one): name for name, one in outside.items()}

    def plain(one: Any) -> Any:
        if id(one) in names:
            return {"outside": names[id(one)]}
        if isinstance(one, np.ndarray | np.generic):
            number = numbers.setdefault(id(one), len(arrays))
            if number == len(arrays):
                arrays.append(np.asarray(one))
            return {"scalar" if isinstance(one, np.generic) else "array": number}
        if one is None or isinstance(one, bool | int | float | str):
            return one
        if isinstance(one, list | tuple):
            return {type(one).__name__: [plain(each) for each in one]}
        if isinstance(one, Mapping):
            return {"mapping": [[plain(key), plain(each)] for key, each in one.items()]}
        if type(one) in classes:
            return {"class": type(one).__name__, "fields": {name: plain(each) for name, each in vars(one).items()}}
        raise TypeError(f"{type(one)} cannot be packed")

    tree = plain(value)
    return Packed(tree, arrays, [_checksum(array) for array in arrays])


def write(folder: Path, packed: Packed) -> None:
    """Write a packed object; the folder counts as written when its index is there.

    Raises:
        DataError: if the folder cannot be written or the disk is full.
    """
    for number, array in enumerate(packed.arrays):
        with store.whole_file(folder / _name(number)) as temporary, temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    content = {"tree": packed.tree, "checksums": list(packed.checksums), "made": packed.digest}
    store.write_json(folder / INDEX, seal.sealed(content))


def digest_of(folder: Path) -> str:
    """Return the digest of what was packed into a folder; empty where nothing was, or not to its end."""
    with named_remote_errors(folder):
        if not (folder / INDEX).is_file():
            return ""
    content = store.read_json(folder / INDEX)
    return str(content["made"]) if isinstance(content, dict) and seal.is_intact(content) and "made" in content else ""


def read(
    folder: Path, *, classes: Sequence[type], outside: Mapping[str, object], prove: bool = True
) -> tuple[Any, str]:
    """Make a packed object again; its large arrays are mapped and cannot be written.

    Args:
        folder: what `write` wrote. Where it lies elsewhere, its arrays are copied to this machine for as long as this
            process maps them.
        classes: those it was packed with.
        outside: what stands for each name.
        prove: whether every number is compared with its checksum; only whoever has just written it need not.

    Returns:
        The object, and the digest of what was packed.

    Raises:
        DataError: if the folder is damaged.
    """
    again = "Remove the folder and run the command again."
    if not (made := digest_of(folder)):
        raise DataError(f"{folder} is not whole or was changed. {again}", path=folder)
    content = store.read_json(folder / INDEX)
    there = _arrays(folder, len(content["checksums"]))
    for number, (array, checksum) in enumerate(zip(there, content["checksums"], strict=True)):
        if prove and _checksum(array) != checksum:
            raise DataError(f"{folder / _name(number)} does not hold what was written. {again}", path=folder)
    known = {one.__name__: one for one in classes}

    def whole(one: Any) -> Any:
        if not isinstance(one, dict):
            return one
        if "outside" in one:
            return outside[one["outside"]]
        if "array" in one:
            return there[one["array"]]
        if "scalar" in one:
            return there[one["scalar"]][()]
        if "list" in one:
            return [whole(each) for each in one["list"]]
        if "tuple" in one:
            return tuple(whole(each) for each in one["tuple"])
        if "mapping" in one:
            return {whole(key): whole(each) for key, each in one["mapping"]}
        made_again: Any = object.__new__(known[one["class"]])
        vars(made_again).update({name: whole(each) for name, each in one["fields"].items()})
        return made_again

    return whole(content["tree"]), made


def _arrays(folder: Path, number: int) -> list[np.ndarray]:
    names = [_name(place) for place in range(number)]
    if not is_remote(folder):
        return [_open(folder / name) for name in names]
    # Mapped files may be removed: their bytes stay until the last process that maps them has ended, however it ends.
    with tempfile.TemporaryDirectory(prefix="cusa-packed-") as copies:
        for name in names:
            with named_remote_errors(folder / name):
                folder.fs.get_file((folder / name).path, f"{copies}/{name}")  # type: ignore[attr-defined]
        return [_open(Path(copies) / name) for name in names]


def _open(path: Path) -> np.ndarray:
    try:
        return arrays.load(path, mapped=path.stat().st_size > _READ_WHOLE)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}). Remove its folder and run the command again.") from error


def _checksum(array: np.ndarray) -> str:
    flat = np.ascontiguousarray(array).reshape(-1)
    total = xxhash.xxh3_128(f"{array.dtype.str} {array.shape}".encode())
    if flat.size:
        total.update(flat.view(np.uint8).data)
    return total.hexdigest()


def _name(number: int) -> str:
    return f"array-{number:03d}.npy"
