"""Scores that need both modalities: all pairs of a student that scores pairs, and the candidates of one that re-ranks.

Legend: I images, C captions, K candidates of a query.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cusa.eval.config import EvalConfig
from cusa.eval.encode import Modality, PartsCache, contents, read_images, read_texts, ready
from cusa.eval.scores import Reranked, Scores, Table, candidates
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split

if TYPE_CHECKING:
    from torch import Tensor

    from cusa.models.students.base import Student

Parts = Mapping[str, "Tensor"]
_TABLE_BYTES = 2 << 30
"""Scores of all pairs that are kept in memory; more lie in a temporary file."""


def all_pairs(student: "Student", split: Split, config: EvalConfig, *, on_event: OnEvent = ignore) -> Table:
    """Score every image with every caption.

    Images are encoded once and kept on the host (for SGRAF 147 KB each at 36 regions of 1,024 numbers); captions
    stream through, `config.batch_size` at a time, each batch against all images. Besides, the memory is the table's
    4 I C bytes and one block of the student's; a table above 2 GiB lies in an unnamed file of the system's folder for
    temporary files ($TMPDIR), and both rankings read it block by block. A caption or image that repeats an earlier one
    gets its scores, to the bit.

    Args:
        student: one with `scores_pairs`.
        split: what to score.
        config: batch size and device.
        on_event: called with every batch.

    Raises:
        DataError: if an image does not decode.
    """
    with ready(student, config) as device, torch.inference_mode():
        images = _image_parts(student, split, config, device, on_event)
        texts = split.texts
        first = _first(texts)
        new = [row for row, original in enumerate(first) if row == original]
        table = _empty_table(split.num_images, len(texts))
        for start in range(0, len(new), config.batch_size):
            rows = new[start : start + config.batch_size]
            parts = student.text_parts(read_texts(student, [texts[row] for row in rows], device))
            place = 0
            for batch in images:
                scores = student.pair_scores({n: v.to(device) for n, v in batch.items()}, parts).float().cpu().numpy()
                table[place : place + len(scores), rows] = scores
                place += len(scores)
            on_event(f"score {split.name}", start + len(rows), len(new))
        for column, original in enumerate(first):
            if column != original:
                table[:, column] = table[:, original]
        for row, original in enumerate(_first(split.samples["sha256"].to_pylist())):
            if row != original:
                table[row] = table[original]
    return Table(table)


def _empty_table(images: int, captions: int) -> np.ndarray:
    """Return (I, C) float32 in memory, or mapped from a file that is gone when the table is."""
    if 4 * images * captions <= _TABLE_BYTES:
        return np.empty((images, captions), np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(images, captions))


def rerank(
    student: "Student",
    split: Split,
    first: Scores,
    config: EvalConfig,
    *,
    kept: PartsCache | None = None,
    on_event: OnEvent = ignore,
) -> Reranked:
    """Score each query's first candidates again, with the student's `match`: a fusion encoder, or late interaction.

    Every image and every caption that the first ranking did not keep is encoded once; a pair that is a candidate both
    ways is matched once. What `match` reads of the whole split lies on the host: for X2-VLM base at 384 pixels 1.8 MB
    an image, 3 KB a word.

    Args:
        student: one with `reranks`.
        split: what `first` ranks.
        first: the dual encoder's scores.
        config: `rerank` = K, batch size, device.
        kept: what encoding the split has kept; emptied here.
        on_event: called with every batch.

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
        kept = kept or PartsCache()
        _keep_all(student, split, config, device, kept=kept, on_event=on_event)
        for some, logits_B2 in _match_batches(
            student, split, pairs // wide, pairs % wide, kept=kept, config=config, device=device
        ):
            logits[some] = logits_B2[:, 1].cpu().numpy()
            on_event(f"re-rank {split.name}", some.stop, len(pairs))
        for there in kept.of.values():
            there.clear()
    again = logits[where.ravel()]
    return Reranked(
        first,
        captions_IK,
        again[: of_images.size].reshape(of_images.shape),
        images_CK,
        again[of_images.size :].reshape(of_captions.shape),
    )


def matched(
    student: "Student",
    split: Split,
    images: np.ndarray,
    captions: np.ndarray,
    *,
    config: EvalConfig,
    on_event: OnEvent = ignore,
) -> np.ndarray:
    """Return the matching head's log-odds of each pair (P,), comparable between queries; only these pairs are matched.

    Args:
        student: one with `reranks`.
        split: of the pairs.
        images: (P,) image rows.
        captions: (P,) caption rows.
        config: batch size and device.
        on_event: called with every batch.

    Raises:
        DataError: if an image does not decode.
    """
    log_odds = np.empty(len(images))
    with ready(student, config) as device, torch.inference_mode():
        kept = PartsCache()
        rows = {"image": np.unique(images).tolist(), "text": np.unique(captions).tolist()}
        _keep_all(student, split, config, device, kept=kept, on_event=on_event, rows=rows)
        for some, logits_B2 in _match_batches(
            student, split, images, captions, kept=kept, config=config, device=device
        ):
            log_odds[some] = (logits_B2[:, 1] - logits_B2[:, 0]).cpu().numpy()
            on_event(f"match judged pairs of {split.name}", some.stop, len(images))
    return log_odds


def _match_batches(
    student: "Student",
    split: Split,
    images: np.ndarray,
    captions: np.ndarray,
    *,
    kept: PartsCache,
    config: EvalConfig,
    device: torch.device,
) -> Iterator[tuple[slice, "Tensor"]]:
    """Match pairs of rows whose parts are kept, a batch at a time: which pairs, their (B, 2) logits in float32."""
    image_contents, text_contents = contents(split)
    for start in range(0, len(images), config.batch_size):
        some = slice(start, min(start + config.batch_size, len(images)))
        logits_B2 = student.match(
            _stacked([kept.of["image"][image_contents[row]] for row in images[some].tolist()], device),
            _stacked([kept.of["text"][text_contents[row]] for row in captions[some].tolist()], device),
        )
        yield some, logits_B2.float()


def scored(
    student: "Student",
    split: Split,
    images: np.ndarray,
    captions: np.ndarray,
    *,
    config: EvalConfig,
    on_event: OnEvent = ignore,
) -> np.ndarray:
    """Return the score of each pair (P,) by a student that scores pairs; only these pairs are scored.

    Args:
        student: one with `scores_pairs`.
        split: of the pairs.
        images: (P,) image rows.
        captions: (P,) caption rows.
        config: device.
        on_event: called with every image.

    Raises:
        DataError: if an image does not decode.
    """
    score_P = np.empty(len(images), np.float32)
    with ready(student, config) as device, torch.inference_mode():
        for number, row in enumerate(np.unique(images).tolist(), 1):
            mine = np.flatnonzero(images == row)
            parts = student.image_parts(read_images(student, split, range(row, row + 1), device))
            texts = [split.texts[caption] for caption in captions[mine].tolist()]
            score_P[mine] = student.pair_scores(parts, student.text_parts(read_texts(student, texts, device)))[0].cpu()
            on_event(f"score judged pairs of {split.name}", number, len(np.unique(images)))
    return score_P


def _image_parts(
    student: "Student", split: Split, config: EvalConfig, device: torch.device, on_event: OnEvent
) -> list[dict[str, "Tensor"]]:
    batches = []
    for start in range(0, split.num_images, config.batch_size):
        rows = range(start, min(start + config.batch_size, split.num_images))
        parts = student.image_parts(read_images(student, split, rows, device))
        batches.append({name: value.cpu() for name, value in parts.items()})
        on_event(f"encode {split.name}", start + len(rows), split.num_images)
    return batches


def _keep_all(
    student: "Student",
    split: Split,
    config: EvalConfig,
    device: torch.device,
    *,
    kept: PartsCache,
    on_event: OnEvent,
    rows: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Encode what is not kept yet: the given rows of each modality, or all."""
    modalities: tuple[Modality, ...] = ("image", "text")
    for modality, of_rows in zip(modalities, contents(split), strict=True):
        wanted = range(len(of_rows)) if rows is None else rows[modality]
        missing = list({of_rows[row]: row for row in wanted if of_rows[row] not in kept.of[modality]}.values())
        for start in range(0, len(missing), config.batch_size):
            some = missing[start : start + config.batch_size]
            if modality == "image":
                parts = student.image_parts(read_images(student, split, some, device))
            else:
                parts = student.text_parts(read_texts(student, [split.texts[row] for row in some], device))
            kept.keep(modality, [of_rows[row] for row in some], parts)
            on_event(f"encode {split.name}", start + len(some), len(missing))


def _stacked(rows: Sequence[Parts], device: torch.device) -> dict[str, "Tensor"]:
    """Stack rows; where captions were padded to different lengths, zeros fill up."""
    stacked = {}
    for name, one in rows[0].items():
        longest = max(len(row[name]) for row in rows) if one.ndim else 0
        out = one.new_zeros((len(rows), *((longest, *one.shape[1:]) if one.ndim else ())))
        for place, row in enumerate(rows):
            (out[place, : len(row[name])] if one.ndim else out[place]).copy_(row[name])
        stacked[name] = out.to(device)
    return stacked


def _first(values: Sequence[str]) -> list[int]:
    """Return for each value the row where it first stood."""
    seen: dict[str, int] = {}
    return [seen.setdefault(value, row) for row, value in enumerate(values)]
