"""Every image and every caption of a split through a student, once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cusa.errors import DataError
from cusa.eval.config import EvalConfig
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.models.preprocess import UNDECODABLE, decode

if TYPE_CHECKING:
    from cusa.models.student import Space, Student


@dataclass(frozen=True)
class Embeddings:
    """A split as a student sees it, rows in the split's order, unit length, float32.

    Attributes:
        image: space -> (images, D).
        text: space -> (captions, D).
    """

    image: dict[str, np.ndarray]
    text: dict[str, np.ndarray]


def encode(
    student: "Student", split: Split, config: EvalConfig, *, uni: bool = True, on_event: OnEvent = ignore
) -> Embeddings:
    """Encode a split in the cross-modal space and, where the student has heads for it, in the uni-modal one.

    Args:
        student: put into evaluation mode and onto the device here, and back afterwards.
        split: what to encode.
        config: batch size and device.
        uni: whether the uni-modal space is wanted.
        on_event: hears of every batch.

    Raises:
        DataError: if an image does not decode.
    """
    spaces: tuple[Space, ...] = ("cross", "uni") if uni and student.has_uni else ("cross",)
    total = split.num_images + split.num_captions
    images: dict[str, list[np.ndarray]] = {space: [] for space in spaces}
    texts: dict[str, list[np.ndarray]] = {space: [] for space in spaces}
    what, done = f"encode {split.name}", 0
    on_event(what, 0, total)
    with ready(student, config) as device, torch.inference_mode():
        for start in range(0, split.num_images, config.batch_size):
            rows = range(start, min(start + config.batch_size, split.num_images))
            arrays = np.stack([student.image_array(picture(split, row)) for row in rows])
            pixels = student.pixels(torch.from_numpy(arrays).to(device))
            for space in spaces:
                images[space].append(student.encode_image(pixels, space).float().cpu().numpy())
            done += len(rows)
            on_event(what, done, total)
        for start in range(0, split.num_captions, config.batch_size):
            batch = split.texts[start : start + config.batch_size]
            tokens = {name: values.to(device) for name, values in student.tokenize(batch).items()}
            for space in spaces:
                texts[space].append(student.encode_text(tokens, space).float().cpu().numpy())
            done += len(batch)
            on_event(what, done, total)
    return Embeddings(
        {space: _joined(parts, student.width) for space, parts in images.items()},
        {space: _joined(parts, student.width) for space, parts in texts.items()},
    )


def text_encoder(student: "Student", config: EvalConfig, space: "Space") -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function from texts to unit rows (texts, D) in one space; the student moves to its device for good.

    Texts are cleaned and cut as the student's own captions are. The authors' release leaves STS sentences uncleaned.
    """
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    student.eval().to(device)

    def encode_texts(texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            tokens = {name: values.to(device) for name, values in student.tokenize(texts).items()}
            return np.asarray(student.encode_text(tokens, space).float().cpu().numpy())

    return encode_texts


def _joined(parts: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


@contextmanager
def ready(student: "Student", config: EvalConfig) -> Iterator[torch.device]:
    """Put a student into evaluation mode and onto the device, and back afterwards."""
    was_training, home = student.training, next(student.parameters()).device
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    student.eval().to(device)
    try:
        yield device
    finally:
        student.train(was_training).to(home)


def picture(split: Split, row: int) -> Any:
    """Return a row's decoded image, or the array of its `.npy` member.

    Raises:
        DataError: if it does not decode.
    """
    try:
        return decode(split.image_bytes(row))
    except DataError:
        raise
    except UNDECODABLE as error:
        raise DataError(
            f"{split.image_keys[row]} in {split.folder} does not decode ({error}): the tar was damaged after sharding. "
            "Make it again with `cusa shard ... --force`.",
            key=split.image_keys[row],
        ) from error
