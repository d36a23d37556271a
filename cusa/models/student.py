"""The interface of a model that learns, and how a name, a folder or a run becomes one.

Legend: B pairs or items, D width of an embedding, C H W channels and pixels of an input.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cusa.errors import ConfigError, DataError, nearest
from cusa.manifests.storage import store
from cusa.models import source
from cusa.models.config import StudentConfig
from cusa.models.features import FeatureTable
from cusa.models.students.base import CARD, Student, StudentClass

KINDS = {
    "dual-encoder": "cusa.models.students.dual_encoder:DualEncoder",
    "heads": "cusa.models.students.embedding_heads:EmbeddingHeads",
    "two-tower": "cusa.models.towers.two_tower:TwoTower",
    "late-interaction": "cusa.models.towers.late_interaction:LateInteraction",
    "sgraf": "cusa.models.students.sgraf:Sgraf",
    "x2vlm": "cusa.models.students.x2vlm:X2vlm",
    "blip": "cusa.models.students.blip:Blip",
}
"""Kinds of students and the class of each; any other kind is the `module:Class` of another package."""


def create(
    config: StudentConfig,
    *,
    captions: Sequence[str],
    uni: bool,
    seed: int,
    features: Mapping[str, FeatureTable] | None = None,
) -> Student:
    """Make a student that is about to be trained.

    Args:
        config: kind, start and sizes.
        captions: of the training split, uncleaned; a student from scratch builds its vocabulary from them.
        uni: whether the loss needs uni-modal heads; decides for `student.uni_head=auto`.
        seed: of the new weights. The towers of a seed are equal whatever heads stand on them.
        features: `image` and `text` -> the table that a student of kind `heads` learns on.

    Returns:
        The student, on the CPU, in training mode.

    Raises:
        ConfigError: if the heads that the loss needs are forbidden, or the kind is unknown.
        DataError: if the name or folder holds no such model.
    """
    if uni and config.uni_head == "never":
        raise ConfigError(
            "loss.beta is not 0, but student.uni_head is 'never': USA needs the uni-modal heads. "
            "Set student.uni_head=auto or loss.beta=0.",
            key="student.uni_head",
        )
    tables = {} if features is None else {"features": features}
    student = kind_class(config.kind).create(
        config, captions=captions, uni=uni or config.uni_head == "always", seed=seed, **tables
    )
    if config.adapted:
        from cusa.models.students import lora

        lora.add(student, config.lora, modalities=config.adapted, seed=seed)
    if config.base_loss == "infonce":
        student.has_own_loss = False
        student.soft_labels = "similarity"
    return student


def kind_class(kind: str) -> StudentClass:
    """Return the class of a kind of student.

    Args:
        kind: one of `KINDS`, or `module:Class`, a class of someone else's with `create` and `load`; naming it runs
            that module's code.

    Raises:
        ConfigError: if there is no such kind, module or class.
    """
    place = KINDS.get(kind, kind)
    module, colon, name = place.partition(":")
    if not colon:
        raise ConfigError(
            f"There is no kind of student {kind!r}. {nearest(kind, KINDS)}, or module:Class.", key="student.kind"
        )
    try:
        student_class: StudentClass = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The student {kind!r} is not there: {error}. Write module:Class, the module being importable from where "
            "you start (PYTHONPATH=.).",
            key="student.kind",
        ) from error
    for method in ("create", "load"):
        if not callable(getattr(student_class, method, None)):
            raise ConfigError(f"The student {kind!r} has no method {method}; see docs/students.md.", key="student.kind")
    return student_class


def load(name: str | Path, *, device: str | torch.device = "cpu", trust: Collection[str] = ()) -> Student:
    """Load a trained student.

    Args:
        name: a run folder, a model folder that `save` wrote, a Hugging Face folder of a dual encoder, a hub name, or a
            checkpoint file of OpenAI, open_clip or CUSA's authors, `FILE@ARCHITECTURE` where it does not say its own.
        device: where its weights go.
        trust: classes outside this package, `module:Class`, that a folder may name, as the student's own or as its
            encoders': loading one runs its module.

    Returns:
        The student in evaluation mode.

    Raises:
        DataError: if nothing there can be loaded.
    """
    from cusa.models.students.dual_encoder import DualEncoder

    path = Path(name).expanduser()
    student: Student
    source.refuse_missing(name)
    folder = next((place for place in (path, path / "model") if (place / CARD).is_file()), None)
    if folder is not None:
        student = _load_folder(folder, trust)
    elif (file := source.checkpoint_file(name)) is not None:
        student = DualEncoder.from_checkpoint(file)
    elif path.is_dir() and not (path / "config.json").is_file():
        trained = " Its training has not yet saved a model." if (path / "checkpoints").is_dir() else ""
        raise DataError(
            f"{path} is neither a run nor a model: it has no {CARD}, model/{CARD} or config.json.{trained} Give the "
            "--out of a `cusa train`, a model folder, or a hub name.",
            path=path,
        )
    else:
        student = DualEncoder.from_hugging_face(str(path) if path.is_dir() else str(name))
    return student.to(device).eval()


def classes(card: Any) -> tuple[str, ...]:
    """Return the classes outside this package that a student's card names, `module:Class`: its own, its towers'."""
    if not isinstance(card, Mapping):
        return ()
    towers = card.get("towers")
    named = [one.get("class") for one in towers.values()] if isinstance(towers, Mapping) else []
    return tuple(str(name) for name in (card.get("kind"), *named) if name and ":" in str(name))


def _load_folder(folder: Path, trust: Collection[str]) -> Student:
    card = store.read_json(folder / CARD)
    kind = str(card.get("kind")) if isinstance(card, dict) else ""
    for name in classes(card):
        if name not in trust:
            raise DataError(
                f"{folder / CARD} describes a student of the class {name!r}, which is not part of cusa: loading it "
                f"runs that module's code. If you trust it, name it: --trust {name} (in Python: trust=[{name!r}]).",
                path=folder,
                kind=name,
            )
    try:
        student_class = kind_class(kind)
    except ConfigError as error:
        raise DataError(f"{folder / CARD} describes a student of kind {kind!r}. {error}", path=folder) from error
    try:
        student = student_class.load(folder)
        student.trusted = frozenset(trust)
        return student
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / CARD} does not describe a student of kind {kind!r}: {error!r}. Restore it, or train again.",
            path=folder,
        ) from error
