"""Batches on their way to the device: copied on a stream of their own, one ahead of the step that computes."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from cusa.train.data.batch import Batch


def on_device(
    flow: Generator[Batch, None, None], device: torch.device, *, images: bool = True
) -> Generator[Batch, None, None]:
    """Yield the batches of `flow` on a device; while one is computed with, the next is copied.

    A thread takes the next batch, pins its memory and starts its copy on a stream of its own. The step's stream waits
    for the copy, the host does not. On a CPU nothing is copied.

    Args:
        flow: batches in host memory; closed at the end.
        device: where they are computed with.
        images: whether images go with the rest; they stay in the host's memory where a step encodes a few at a time.

    Raises:
        CusaError: whatever `flow` raised, at its batch.
    """
    if device.type != "cuda":
        with closing(flow):
            for batch in flow:
                yield batch if device.type == "cpu" else _copy(batch, lambda rows: rows.to(device), images=images)
        return
    side = torch.cuda.Stream(device)

    def start(batch: Batch | None) -> tuple[Batch, torch.cuda.Event] | None:
        if batch is None:
            return None
        with torch.cuda.stream(side):
            copy = _copy(batch, lambda rows: rows.pin_memory().to(device, non_blocking=True), images=images)
            arrived = torch.cuda.Event()
            arrived.record(side)
        return copy, arrived

    with closing(flow), ThreadPoolExecutor(1, thread_name_prefix="cusa-transfer") as thread:
        coming = thread.submit(lambda: start(next(flow, None)))
        while (there := coming.result()) is not None:
            coming = thread.submit(lambda: start(next(flow, None)))
            batch, arrived = there
            now = torch.cuda.current_stream(device)
            now.wait_event(arrived)
            for tensor in tensors(batch):
                if tensor.device.type != "cpu":
                    tensor.record_stream(
                        now
                    )  # its memory belongs to the other stream: not free before this one is done
            yield batch


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Yield every tensor of a batch."""
    yield from (batch.images, batch.image_ids, batch.rows, *batch.tokens.values())
    yield from (each for each in (batch.teacher_image, batch.teacher_text, batch.patches) if each is not None)


def _copy(batch: Batch, move: Callable[[Tensor], Tensor], *, images: bool) -> Batch:
    """Return a batch of which all that a step reads is moved, the images only where they are wanted."""
    return replace(
        batch,
        images=move(batch.images) if images else batch.images,
        tokens={name: move(values) for name, values in batch.tokens.items()},
        image_ids=move(batch.image_ids),
        rows=move(batch.rows),
        teacher_image=None if batch.teacher_image is None else move(batch.teacher_image),
        teacher_text=None if batch.teacher_text is None else move(batch.teacher_text),
        patches=None if batch.patches is None else move(batch.patches),
    )
