"""Checkpoints: all that a run needs to continue with the same bits; a folder is whole or absent.

`checkpoints/step-000000200/` holds `state.pt` (tensors and plain values, read with `weights_only`) and `meta.json` (the
SHA-256 of the state, and what it belongs to). The folder appears under its name only when both are whole.
"""

import random
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cusa.errors import ConfigError, DataError, StaleError, nearest
from cusa.manifests.storage import seal, store

_FORMAT = 3

KEYS_OF_INPUTS = {
    "the training split": "data.train",
    "the validation split": "data.val",
    "the image teacher": "teachers.image",
    "the text teacher": "teachers.text",
    "the neighbour tables": "train.neighbour_similarity",
    "what student.name names": "student.name",
    "what student.towers.image.name names": "student.towers.image.name",
    "what student.towers.text.name names": "student.towers.text.name",
}
"""Inputs in words -> the recipe key by which `allow_changed` names them; of several data sets those of each."""


@dataclass(frozen=True)
class Identity:
    """The settings and inputs that a state belongs to; a run with others does not load it."""

    settings: Mapping[str, Any]
    """Dotted recipe key -> value."""
    digests: Mapping[str, str]
    """Name of an input -> digest of its content."""


def save(
    folder: Path, *, step: int, state: Mapping[str, Any], identity: Identity, keep: int, also_keep: int | None = None
) -> Path:
    """Write a checkpoint and remove older ones.

    Args:
        folder: the run's `checkpoints` folder.
        step: steps done.
        state: state dicts and plain values; tensors of any device.
        identity: the settings and inputs it belongs to.
        keep: the latest checkpoints that stay.
        also_keep: the step of one more that stays, the best.

    Returns:
        The checkpoint's folder.
    """
    place = folder / f"step-{step:09d}"
    with store.whole_folder(place) as temporary:
        _write(temporary / "state.pt", state)
        meta = {
            "format": _FORMAT,
            "step": step,
            "sha256": store.sha256_file(temporary / "state.pt"),
            "settings": dict(identity.settings),
            "digests": dict(identity.digests),
        }
        store.write_json(temporary / "meta.json", seal.sealed(meta))
    there = steps(folder)
    for old in set(there[:-keep]) - {step, also_keep}:
        store.remove_folder(folder / f"step-{old:09d}")
    return place


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, ascending, whatever their state."""
    return sorted(int(place.name[5:]) for place in folder.glob("step-*") if place.name[5:].isdigit())


def load(
    folder: Path, *, identity: Identity, allow_changed: Collection[str] = ()
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """Read the latest checkpoint that is intact.

    Args:
        folder: the run's `checkpoints` folder; may not exist.
        identity: the settings and inputs of the run.
        allow_changed: recipe keys and inputs (see `KEYS_OF_INPUTS`) that may differ.

    Returns:
        Steps done and the state, or 0 and an empty state if there is none; and a sentence for each broken checkpoint
        and each difference that was allowed.

    Raises:
        ConfigError: if `allow_changed` names neither a setting nor an input of a checkpoint.
        DataError: if there are checkpoints and none is intact.
        StaleError: if the latest intact one belongs to other settings or inputs; the message names what changed.
    """
    _check_names(folder, allow_changed, identity)
    notes: list[str] = []
    for step in reversed(steps(folder)):
        place = folder / f"step-{step:09d}"
        try:
            meta = store.read_json(place / "meta.json")
            _check(place, meta, step)
            changed = _changes(meta, identity)
            refused = {key: words for key, words in changed.items() if not {key, _key(key)} & {*allow_changed}}
            if refused:
                options = dict.fromkeys(f"--allow-changed {shlex.quote(_key(key))}" for key in refused)
                raise StaleError(
                    f"{place} belongs to another run: {'; '.join(refused.values())}. Go on with what it was made from, "
                    "choose another --out, start again with --force, or allow by name what changed, with "
                    f"{' '.join(options)}.{_earlier(folder, step, identity)}",
                    path=place,
                    changed=[*refused.values()],
                )
            if store.sha256_file(place / "state.pt") != meta["sha256"]:
                raise DataError(f"{place / 'state.pt'} is not what was written.", path=place)
            state = torch.load(place / "state.pt", map_location="cpu", weights_only=True)
        except (StaleError, MemoryError):
            raise
        except Exception as error:  # a damaged archive raises almost anything: OSError, RuntimeError, pickle's own...
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            notes.append(f"The checkpoint {place} is broken and was passed over: {first}")
            continue
        notes += [f"From step {step} on {words}, as was allowed." for words in changed.values()]
        return step, state, tuple(notes)
    if notes:
        raise DataError(
            f"No checkpoint in {folder} can be read. {' '.join(notes)}. Restore one, or start again with --force.",
            path=folder,
        )
    return 0, {}, ()


def random_state() -> dict[str, Any]:
    """Return the state of every random number generator a model may draw from, as plain values and tensors."""
    # NumPy's global generator is not ours, but a model of someone else's may draw from it.
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set every generator to the state that `random_state` returned."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        {
            "bit_generator": "MT19937",
            "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
            "has_gauss": numpy["has_gauss"],
            "gauss": numpy["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def seed_all(seed: int) -> None:
    """Seed every generator a model may draw from."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    torch.manual_seed(seed)


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; raise the system's own error where torch wraps it."""
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        raise cause or error from error


def _check(place: Path, meta: Any, step: int) -> None:
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT or meta.get("step") != step:
        raise DataError(f"{place / 'meta.json'} is no meta file of this format and step.", path=place)
    if not seal.is_intact(meta):
        raise DataError(f"{place / 'meta.json'} was changed after it was written.", path=place)


def _key(name: str) -> str:
    """Return the recipe key by which `allow_changed` names an input, or its own name where there is none."""
    return KEYS_OF_INPUTS.get(name.partition(" of data set ")[0], name)


def _changes(meta: Mapping[str, Any], identity: Identity) -> dict[str, str]:
    """Return the differences between a checkpoint's identity and the run's in words, by key or input."""
    changed = {}
    then, now = meta["settings"], dict(identity.settings)
    for key in sorted({*then, *now}):
        if key not in then:
            changed[key] = f"{key}, which was not there when it was written, is {now[key]!r}"
        elif then[key] != now.get(key):
            changed[key] = f"{key} was {then[key]!r} and is now {now.get(key)!r}"
    then, now = meta["digests"], dict(identity.digests)
    return changed | {name: f"{name} changed" for name in sorted({*then, *now}) if then.get(name) != now.get(name)}


def _earlier(folder: Path, step: int, identity: Identity) -> str:
    """Return a sentence on the latest checkpoint before a step that belongs to the run; empty if there is none."""
    for earlier in reversed([there for there in steps(folder) if there < step]):
        try:
            place = folder / f"step-{earlier:09d}"
            meta = store.read_json(place / "meta.json")
            _check(place, meta, earlier)
            if not _changes(meta, identity):
                return f" Step {earlier} does belong to this one: move the later ones away to go on from there."
        except (DataError, KeyError, TypeError, AttributeError):
            continue
    return ""


def _check_names(folder: Path, allow_changed: Collection[str], identity: Identity) -> None:
    known = {*identity.settings, *identity.digests, *KEYS_OF_INPUTS.values()}
    for step in steps(folder) if allow_changed else ():
        with suppress(DataError, KeyError, TypeError):  # a broken one is told of when it is read
            meta = store.read_json(folder / f"step-{step:09d}" / "meta.json")
            known |= {*meta["settings"], *meta["digests"]}
    for name in allow_changed:
        if name not in known:
            raise ConfigError(
                f"--allow-changed {name!r} is nothing that a checkpoint depends on. {nearest(name, known)}", key=name
            )
