"""Scores that need both ends: all pairs of a student that scores pairs, and the candidates of one that re-ranks.

Legend: I images, C captions, K candidates of a query.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cusa.eval.config import EvalConfig
from cusa.eval.encode import picture, ready
from cusa.eval.scores import Reranked, Scores, Table, candidates
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split

if TYPE_CHECKING:
    from torch import Tensor

    from cusa.models.student import Student

Parts = Mapping[str, "Tensor"]


def all_pairs(student: "Student", split: Split, config: EvalConfig, *, on_event: OnEvent = ignore) -> Table:
    """Score every image with every caption.

    Images are encoded once and kept on the host (for SGRAF 147 KB each at 36 regions of 1,024 numbers); captions
    stream through, `config.batch_size` at a time, each batch against all images. Besides, the memory is the table's
    4 I C bytes and one block of the student's. A caption or image that repeats an earlier one gets its scores, to the
    bit.

    Args:
        student: one with `scores_pairs`.
        split: what to score.
        config: batch size and device.
        on_event: hears of every batch.

    Raises:
        DataError: if an image does not decode.
    """
    with ready(student, config) as device, torch.inference_mode():
        images = _image_parts(student, split, config, device, on_event)
        texts = split.texts
        first = _first(texts)
        new = [row for row, original in enumerate(first) if row == original]
        table = np.empty((split.num_images, len(texts)), np.float32)
        for start in range(0, len(new), config.batch_size):
            rows = new[start : start + config.batch_size]
            tokens = {n: v.to(device) for n, v in student.tokenize([texts[row] for row in rows]).items()}
            parts = student.text_parts(tokens)
            place = 0
            for batch in images:
                scores = student.pair_scores({n: v.to(device) for n, v in batch.items()}, parts).float().cpu().numpy()
                table[place : place + len(scores), rows] = scores
                place += len(scores)
            on_event(f"score {split.name}", start + len(rows), len(new))
        table[:, :] = table[:, first]
        table[:, :] = table[_first(split.samples["sha256"].to_pylist())]
    return Table(table)


def rerank(
    student: "Student", split: Split, first: Scores, config: EvalConfig, *, on_event: OnEvent = ignore
) -> Reranked:
    """Score each query's first candidates again, with the student's `match`.

    Every image and every caption is encoded once; a pair that is a candidate both ways is matched once.

    Args:
        student: one with `reranks`.
        split: what `first` ranks.
        first: the dual encoder's scores.
        config: `rerank` = K, batch size, device.
        on_event: hears of every batch.

    Raises:
        DataError: if an image does not decode.
    """
    captions_IK = candidates(first.of_images(config.block), min(config.rerank, split.num_captions))
    images_CK = candidates(first.of_captions(config.block), min(config.rerank, split.num_images))
    wide = split.num_captions
    of_images = np.arange(split.num_images)[:, None] * wide + captions_IK
    of_captions = images_CK * wide + np.arange(wide)[:, None]
    pairs, where = np.unique(np.concatenate([of_images.ravel(), of_captions.ravel()]), return_inverse=True)
    logits = np.empty(len(pairs), np.float32)
    with ready(student, config) as device, torch.inference_mode():
        images = _joined(_image_parts(student, split, config, device, on_event))
        texts = _joined(_text_parts(student, split, config, device))
        for start in range(0, len(pairs), config.batch_size):
            some = pairs[start : start + config.batch_size]
            image_rows, text_rows = torch.from_numpy(some // wide), torch.from_numpy(some % wide)
            found = student.match(
                {name: value[image_rows].to(device) for name, value in images.items()},
                {name: value[text_rows].to(device) for name, value in texts.items()},
            )
            logits[start : start + len(some)] = found[:, 1].float().cpu().numpy()
            on_event(f"re-rank {split.name}", start + len(some), len(pairs))
    again = logits[where.ravel()]
    return Reranked(
        first,
        captions_IK,
        again[: of_images.size].reshape(of_images.shape),
        images_CK,
        again[of_images.size :].reshape(of_captions.shape),
    )


def _image_parts(
    student: "Student", split: Split, config: EvalConfig, device: torch.device, on_event: OnEvent
) -> list[dict[str, "Tensor"]]:
    found = []
    for start in range(0, split.num_images, config.batch_size):
        rows = range(start, min(start + config.batch_size, split.num_images))
        arrays = torch.from_numpy(np.stack([student.image_array(picture(split, row)) for row in rows]))
        parts = student.image_parts(student.pixels(arrays.to(device)))
        found.append({name: value.cpu() for name, value in parts.items()})
        on_event(f"encode {split.name}", start + len(rows), split.num_images)
    return found


def _text_parts(
    student: "Student", split: Split, config: EvalConfig, device: torch.device
) -> list[dict[str, "Tensor"]]:
    found = []
    for start in range(0, split.num_captions, config.batch_size):
        tokens = student.tokenize(split.texts[start : start + config.batch_size])
        parts = student.text_parts({name: value.to(device) for name, value in tokens.items()})
        found.append({name: value.cpu() for name, value in parts.items()})
    return found


def _joined(batches: Sequence[Parts]) -> dict[str, "Tensor"]:
    """Put batches together; where captions were padded to different lengths, zeros fill up."""
    joined = {}
    for name in batches[0]:
        parts = [batch[name] for batch in batches]
        longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
        out = parts[0].new_zeros(
            (sum(len(part) for part in parts), *((longest, *parts[0].shape[2:]) if longest else ()))
        )
        place = 0
        for part in parts:
            where = out[place : place + len(part)]
            (where[:, : part.shape[1]] if longest else where).copy_(part)
            place += len(part)
        joined[name] = out
    return joined


def _first(values: Sequence[str]) -> list[int]:
    """Return for each value the row where it first stood."""
    seen: dict[str, int] = {}
    return [seen.setdefault(value, row) for row, value in enumerate(values)]
