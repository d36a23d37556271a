"""Teacher rows for a training loop of one's own, by number or by key, as the arguments that `CUSALoss` takes.

Legend: B pairs in the batch, E image teacher width, F text teacher width.
"""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cusa.errors import DataError
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import mirror
from cusa.manifests.storage.paths import place
from cusa.train.data.gather import TeacherRows


class _Rows(Protocol):
    """What holds the rows of one teacher: an array, or a file of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class Teachers:
    """The rows of two teachers by number.

    Args:
        image: (images, E) rows of the image teacher, an array or a tensor.
        text: (captions, F) rows of the text teacher.
    """

    def __init__(self, image: _Rows, text: _Rows) -> None:
        self._image, self._text = image, text

    def at(self, images: Sequence[int] | Tensor, captions: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return what `CUSALoss` asks of the teachers for a batch of pairs.

        Args:
            images: B image rows.
            captions: B caption rows.

        Returns:
            `teacher_image` (B, E) and `teacher_text` (B, F) in float32, and `image_ids` (B,), the image rows.

        Raises:
            DataError: for a row that there is not.
        """
        image_B, text_B = (torch.as_tensor(rows).cpu().long().reshape(-1) for rows in (images, captions))
        for name, rows_B, table in (("image", image_B, self._image), ("text", text_B, self._text)):
            if len(rows_B) and not (rows_B.min() >= 0 and rows_B.max() < len(table)):
                outside = rows_B[(rows_B < 0) | (rows_B >= len(table))]
                raise DataError(
                    f"Row {int(outside[0])} of the {name} teacher is asked for; it has {len(table)}, counted from 0.",
                    row=int(outside[0]),
                )
        image_BE, text_BF = self._image[image_B.numpy()], self._text[text_B.numpy()]
        return {
            "teacher_image": torch.as_tensor(image_BE).float(),
            "teacher_text": torch.as_tensor(text_BF).float(),
            "image_ids": image_B,
        }


class KeyedTeachers(Teachers):
    """The rows of two teachers over a split, by number and by key; as a stage, joined to samples of `webdataset`.

    It travels to the worker processes of a DataLoader: the rows are read from a file when they are asked for.

    Args:
        split: the split.
        image: tables of the image teacher.
        text: tables of the text teacher.

    Attributes:
        split: the split.
        names: the tables' names, `image` and `text`.
    """

    def __init__(self, split: Split, image: str, text: str) -> None:
        self.split = split
        self.names = {"image": image, "text": text}
        fallback = Path()
        if not os.access(split.folder, os.W_OK):  # else the rows are kept beside the tables
            fallback = Path(tempfile.mkdtemp(prefix="cusa-"))
            weakref.finalize(self, shutil.rmtree, fallback, ignore_errors=True)
        image_rows, text_rows = (TeacherRows(split, name, fallback=fallback) for name in (image, text))
        super().__init__(image_rows, text_rows)

    def rows(self, image_keys: Sequence[str], caption_keys: Sequence[str]) -> dict[str, Tensor]:
        """Return what `CUSALoss` asks of the teachers for a batch of pairs, see `at`.

        Args:
            image_keys: B keys of images.
            caption_keys: B keys of captions.

        Raises:
            DataError: for a key that the split does not have.
        """
        split = self.split
        images = [self._row(key, split.image_row, "image") for key in image_keys]
        return self.at(images, [self._row(key, split.caption_row, "caption") for key in caption_keys])

    def _row(self, key: str, rows: Mapping[str, int], what: str) -> int:
        if key not in rows:
            raise DataError(
                f"The split {self.split.name!r} of {self.split.work} has no {what} {key!r}, so its teachers have no "
                "row of it. Read the tars of the same work folder and split, whole and not renamed.",
                key=key,
            )
        return rows[key]

    def __call__(self, samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Join teacher rows to the samples of a `webdataset` pipeline: `dataset.compose(teachers)`.

        Args:
            samples: what `WebDataset` reads from a work folder's tars, decoded or not.

        Yields:
            A sample for each caption of each image, with the fields of the image's sample and `caption`,
            `caption_key`, `image_id` (the image's row), `teacher_image` (E,) and `teacher_text` (F,) float32 arrays.
            Shuffle after it, so that captions of one image do not stand side by side.

        Raises:
            DataError: for a sample without captions, or whose key the split does not have.
        """
        for sample in samples:
            key = str(sample["__key__"])
            for caption in _captions(key, sample):
                rows = self.rows([key], [caption["caption_key"]])
                yield {
                    **sample,
                    "caption": caption["text"],
                    "caption_key": caption["caption_key"],
                    "image_id": int(rows["image_ids"][0]),
                    "teacher_image": rows["teacher_image"][0].numpy(),
                    "teacher_text": rows["teacher_text"][0].numpy(),
                }


def _captions(key: str, sample: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the captions of a sample, whether a decoder read its JSON or not."""
    content = sample.get("json")
    if isinstance(content, bytes | str):
        content = json.loads(content)
    if not isinstance(content, dict) or "captions" not in content:
        raise DataError(
            f"The sample {key!r} has no json member with captions: it is none of `cusa shard`, or a stage before "
            "this one took it out. Join teacher rows before `to_tuple`.",
            key=key,
        )
    captions: list[dict[str, str]] = content["captions"]
    return captions


def teacher_rows(work: str | Path, *, split: str = "train", image: str = "", text: str = "") -> KeyedTeachers:
    """Open the rows of two teachers over a split of a work folder.

    Args:
        work: the work folder, or the URL of one.
        split: the split.
        image: the image teacher, as in a recipe; the only one if empty.
        text: the text teacher, likewise.

    Returns:
        Rows by number and by key, and a stage for `webdataset`.

    Raises:
        DataError, StaleError: if the split or a table is missing, broken, or of another state of the split.

    Example:
        >>> teachers = cusa.teacher_rows("work/coco", image="unicom-vit-b-32", text="all-mpnet-base-v2")
        >>> loss(image=image, text=text, **teachers.rows(image_keys, caption_keys))
        >>> dataset = webdataset.WebDataset(shards, shardshuffle=True).decode("pil").compose(teachers)
    """
    opened = Split(mirror.here(place(str(work))), split)
    names = [tables.choose_teacher(opened, modality, name) for modality, name in (("image", image), ("text", text))]
    return KeyedTeachers(opened, *names)
