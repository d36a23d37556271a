"""A student's folder: its card, its weights, its tokenizer; whole or not at all."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cusa.errors import DataError, did_you_mean
from cusa.manifests.storage import store
from cusa.models import naflex
from cusa.models.captions import choose_tokens, token_positions
from cusa.models.config import StudentConfig
from cusa.models.students import lora
from cusa.models.students.base import CARD

WEIGHTS = "weights.safetensors"
FORMAT = 1


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise the system's own error where safetensors hides it in its message."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def write(
    folder: Path,
    card: Mapping[str, Any],
    module: nn.Module,
    tokenizer: Any,
    *,
    exclude: str = "",
    also: Callable[[Path], None] | None = None,
) -> None:
    """Write a folder that `read` reads.

    Args:
        folder: replaced whole.
        card: what the class needs to build itself; `kind` names the class.
        module: its state is written, adapters merged.
        tokenizer: a Hugging Face tokenizer; None for a student without one.
        exclude: keys with this prefix are left out.
        also: writes further files into the folder.
    """
    from safetensors.torch import save_file

    with store.whole_folder(folder) as place:
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        state = lora.merged_state(module)
        kept = {name: value for name, value in state.items() if not (exclude and name.startswith(exclude))}
        # A copy each: safetensors refuses tensors that share memory.
        save_file({name: value.detach().clone().contiguous().cpu() for name, value in kept.items()}, place / WEIGHTS)
        if also is not None:
            also(place)
        store.write_json(place / CARD, {**card, "format": FORMAT})


def as_wished(card: Mapping[str, Any], config: StudentConfig, settings: Any) -> dict[str, Any]:
    """Return a dual encoder's card with the patches of a picture and the tokens of a caption that are asked for.

    Args:
        card: what the model says of itself.
        config: with `max_patches` and `max_tokens`.
        settings: configuration of the dual encoder in transformers.

    Raises:
        ConfigError: if the model cannot read so many.
    """
    preprocess = naflex.choose_patches(
        naflex.from_json(card["preprocess"]),
        config.max_patches,
        settings.vision_config,
        key="student.max_patches",
        name=config.name,
    )
    context = choose_tokens(
        config.max_tokens,
        card["text"]["context"],
        token_positions(settings.text_config),
        key="student.max_tokens",
        name=config.name,
    )
    return {**card, "preprocess": preprocess.to_json(), "text": {**card["text"], "context": context}}


def find(name: str, kind: str) -> Path | None:
    """Return the folder of a student that a run or model folder holds; None where there is none of this kind."""
    path = Path(name).expanduser()
    folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
    return folder if folder is not None and store.read_json(folder / CARD).get("kind") == kind else None


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Return the card, the state and the tokenizer of a folder.

    Raises:
        DataError: if a file is missing, broken or of another format.
    """
    from transformers import AutoTokenizer

    card, state = read_weights(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises almost anything for a broken file
        raise _unreadable(folder, error) from error
    return card, state, tokenizer


def read_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card and the state of a folder.

    Raises:
        DataError: if a file is missing, broken or of another format.
    """
    from safetensors.torch import load_file

    card = store.read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise DataError(
            f"{folder / CARD} has format {card.get('format')!r}; this version reads {FORMAT}. "
            "Use the version that wrote it.",
            path=folder,
        )
    try:
        return card, load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises almost anything for a broken file
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> DataError:
    return DataError(
        f"{folder} cannot be read as a student: {str(error).strip().splitlines()[0]} Restore it, or train again.",
        path=folder,
    )


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], where: object, *, optional: str | tuple[str, ...] = ()
) -> None:
    """Load a state dict, every key accounted for.

    Args:
        module: read into.
        state: its keys.
        where: the file or folder, for the message.
        optional: keys of the module with this prefix, or one of these, may be missing.

    Raises:
        DataError: if keys are missing, unexpected (with the nearest that is expected) or of another shape.
    """
    expected = module.state_dict()
    missing = sorted(n for n in set(expected) - set(state) if not (optional and n.startswith(optional)))
    unexpected = sorted(set(state) - set(expected))
    problems = [f"{len(missing)} keys are missing, the first {missing[0]!r}"] if missing else []
    if unexpected:
        hint = did_you_mean(unexpected[0], expected)
        problems.append(f"{len(unexpected)} are unexpected, the first {unexpected[0]!r}. {hint}".strip())
    for name in sorted(set(expected) & set(state)):
        if expected[name].shape != state[name].shape:
            problems.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}")
            break
    if problems:
        raise DataError(
            f"{where} does not fit a {type(module).__name__} of these sizes: {'; '.join(problems)} Check student.kind "
            "and its sizes against what the checkpoint was trained with.",
            missing=missing,
            unexpected=unexpected,
        )
    module.load_state_dict(dict(state), strict=False)
