"""Every image and every caption of a split through a student, once."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cusa.errors import DataError
from cusa.eval.cache import ROWS, EmbeddingCache
from cusa.eval.config import EvalConfig
from cusa.eval.share import ALONE, Share
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.models import features
from cusa.models.device import choose
from cusa.models.features import FEATURES
from cusa.models.preprocess import UNDECODABLE, decode

if TYPE_CHECKING:
    from cusa.models.students.base import Space, Student

Modality = Literal["image", "text"]
_MODALITIES: tuple[Modality, Modality] = ("image", "text")


@dataclass(frozen=True)
class Embeddings:
    """A split as a model sees it, rows in the split's order, unit length, float32.

    Attributes:
        image: space -> (images, D); empty for a model of texts alone.
        text: space -> (captions, D).
    """

    image: dict[str, np.ndarray]
    text: dict[str, np.ndarray]


class TextModel:
    """A model of texts alone, such as a sentence-transformers folder.

    Args:
        name: for people.
        encode: texts to (texts, D) unit rows.
        key: what the rows depend on: weights, preprocessing; for the cache.
    """

    spaces = ("uni",)

    def __init__(self, name: str, encode: Callable[[Sequence[str]], np.ndarray], key: Mapping[str, str]) -> None:
        self.name = name
        self.encode = encode
        self.key = dict(key)

    def remarks(self) -> tuple[str, ...]:
        """Return full sentences a person should read: none."""
        return ()

    def space_of(self, task: str) -> tuple[str, str]:
        """Return the space that serves a task, and how to say so beside a number."""
        return "uni", "the model's own"


class PartsCache:
    """What a student that re-ranks made of images and captions on the way to their embeddings, for `match` to read.

    On the host, a dict of tensors for each content.
    """

    def __init__(self) -> None:
        self.of: dict[str, dict[bytes, dict[str, torch.Tensor]]] = {"image": {}, "text": {}}

    def keep(self, modality: Modality, contents: Sequence[bytes], parts: Mapping[str, torch.Tensor]) -> None:
        """Take a batch's parts, row by row, copied so that no batch is held for one of its rows."""
        rows = {name: value.cpu() for name, value in parts.items()}
        for place, content in enumerate(contents):
            self.of[modality][content] = {name: value[place].clone() for name, value in rows.items()}


def encode(
    model: "Student | TextModel",
    split: Split,
    config: EvalConfig,
    *,
    uni: bool = True,
    cache: EmbeddingCache | None = None,
    share: Share = ALONE,
    kept: PartsCache | None = None,
    on_event: OnEvent = ignore,
) -> Embeddings:
    """Encode a split in the cross-modal space and, where the student has heads for it, in the uni-modal one.

    Contents that stand in the split twice, and those that the cache knows, are not encoded again. Where the split has
    the tables that a student reads, neither pictures nor texts are.

    Args:
        model: a student is put into evaluation mode and onto the device here, and back afterwards.
        split: what to encode.
        config: batch size and device.
        uni: whether the uni-modal space is wanted.
        cache: of earlier embeddings.
        share: the ranks that encode together; only the first gets the rows.
        kept: takes what `match` reads of all that is encoded here, for `pairs.rerank`.
        on_event: called with every batch.

    Raises:
        DataError: if an image does not decode, or an embedding is not finite.
    """
    what, total = f"encode {split.name}", split.num_images + split.num_captions
    images, texts = contents(split)
    on_event(what, 0, total)
    if isinstance(model, TextModel):
        rows = embed_texts(model, split.texts, config, cache=cache, share=share, names=split.caption_keys)
        on_event(what, total, total)
        return Embeddings({}, rows)
    spaces = model.spaces if uni else ("cross",)
    with ready(model, config) as device, torch.inference_mode():
        of_images = _row_reader(model, split, "image", spaces, device, kept=kept, contents=images)
        of_texts = _row_reader(model, split, "text", spaces, device, kept=kept, contents=texts)
        # The cache knows rows by what was seen, not by the table that gave them: those of a table are computed anew.
        encoders = [
            RowEncoder(
                config, spaces, model.width, cache=None if reads_table(model, split, kind) else cache, share=share
            )
            for kind in _MODALITIES
        ]
        image_rows = encoders[0].rows(
            "image", images, of_images, names=split.image_keys, on_done=lambda done: on_event(what, done, total)
        )
        text_rows = encoders[1].rows(
            "text",
            texts,
            of_texts,
            names=split.caption_keys,
            on_done=lambda done: on_event(what, split.num_images + done, total),
        )
    return Embeddings(image_rows, text_rows)


def embed_rows(
    model: "Student | TextModel", split: Split, config: EvalConfig, modality: Modality, rows: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return the embeddings of some rows of a split in every space of the model: space -> (rows, D).

    Args:
        model: a student is put into evaluation mode and onto the device here, and back afterwards.
        split: of the rows.
        config: batch size and device.
        modality: of the rows.
        rows: row numbers; every batch of them is embedded at once.

    Raises:
        DataError: if an image does not decode, or an embedding is not finite.
    """
    names = split.image_keys if modality == "image" else split.caption_keys
    if isinstance(model, TextModel):
        return embed_texts(model, [split.texts[row] for row in rows], config, names=[names[row] for row in rows])
    blocks: dict[str, list[np.ndarray]] = {space: [] for space in model.spaces}
    with ready(model, config) as device, torch.inference_mode():
        read = _row_reader(model, split, modality, model.spaces, device)
        for start in range(0, len(rows), config.batch_size):
            batch = rows[start : start + config.batch_size]
            for space, block in read(batch).items():
                _check(block, batch, names, modality)
                blocks[space].append(block)
    return {space: np.concatenate(parts) for space, parts in blocks.items()}


def reads_table(model: "Student", split: Split, modality: Modality) -> bool:
    """Return whether a student reads a table of the split instead of its pictures or texts."""
    table = model.features.get(modality)
    return table is not None and bool(features.find(split, modality, table))


def _row_reader(
    model: "Student",
    split: Split,
    modality: Modality,
    spaces: "Sequence[Space]",
    device: torch.device,
    *,
    kept: PartsCache | None = None,
    contents: Sequence[bytes] = (),
) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """Return what embeds rows of a split: of the table that the student reads, else of pictures and texts."""
    table = features.read_rows(split, modality, model.features.get(modality))

    def read(rows: Sequence[int]) -> dict[str, np.ndarray]:
        inputs: Any
        if table is not None:
            whole = _table_rows(table, rows, device)
            inputs = whole if modality == "image" else {FEATURES: whole}
        elif modality == "image":
            inputs = read_images(model, split, rows, device)
        else:
            inputs = read_texts(model, [split.texts[row] for row in rows], device)
        mine = [contents[row] for row in rows] if kept is not None else ()
        return spaces_of_batch(model, modality, inputs, spaces, kept=kept, contents=mine)

    return read


def contents(split: Split) -> tuple[list[bytes], list[bytes]]:
    """Return a digest of each image and of each caption: equal ones are encoded once."""
    return (
        [bytes.fromhex(sha256) for sha256 in split.samples["sha256"].to_pylist()],
        _digests(split.texts),
    )


def _digests(texts: Sequence[str]) -> list[bytes]:
    return [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]


def embed_texts(
    model: "Student | TextModel",
    texts: Sequence[str],
    config: EvalConfig,
    *,
    cache: EmbeddingCache | None = None,
    share: Share = ALONE,
    names: Sequence[str] | None = None,
    on_done: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """Return the rows of texts, space by space.

    Texts are cleaned and cut as a student's own captions are. The authors' release leaves STS sentences uncleaned.

    Args:
        model: what embeds.
        texts: any, also twice.
        config: batch size and device.
        cache: of earlier embeddings.
        share: the ranks that encode together; only the first gets the rows.
        names: of the texts, for the message where a row is not finite; the texts themselves when None.
        on_done: called with how many are there.
    """
    contents = _digests(texts)
    names = texts if names is None else names
    if isinstance(model, TextModel):

        def of_model(rows: Sequence[int]) -> dict[str, np.ndarray]:
            return {"uni": np.asarray(model.encode([texts[row] for row in rows]), np.float32)}

        encoder = RowEncoder(config, model.spaces, 1, cache=cache, share=share)
        return encoder.rows("text", contents, of_model, names=names, on_done=on_done)
    with ready(model, config) as device, torch.inference_mode():

        def of_student(rows: Sequence[int]) -> dict[str, np.ndarray]:
            tokens = read_texts(model, [texts[row] for row in rows], device)
            return spaces_of_batch(model, "text", tokens, model.spaces)

        encoder = RowEncoder(config, model.spaces, model.width, cache=cache, share=share)
        return encoder.rows("text", contents, of_student, names=names, on_done=on_done)


def cache_key(model: "Student | TextModel", config: EvalConfig) -> dict[str, str]:
    """Return what a model's rows depend on besides the contents: weights, preprocessing, kind of device."""
    device = choose(config.device).type
    if isinstance(model, TextModel):
        return {**model.key, "device": device}
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(memoryview(flat.view(torch.uint8).numpy()))
    card = getattr(model, "card", None) or {}
    return {
        "class": f"{type(model).__module__}:{type(model).__qualname__}",
        "weights": total.hexdigest(),
        "preprocessing": store.digest(card),
        "device": device,
    }


class RowEncoder:
    """Computes the rows of one modality, each distinct content once, in turns with the other ranks.

    Args:
        config: batch size.
        spaces: wanted.
        width: of the rows, for a rank that has computed none.
        cache: of earlier embeddings; only the first rank reads and writes it.
        share: the ranks that encode together.
    """

    def __init__(
        self, config: EvalConfig, spaces: Sequence[str], width: int, *, cache: EmbeddingCache | None, share: Share
    ) -> None:
        self._batch_size = config.batch_size
        self._spaces = spaces
        self._width = width
        self._cache = cache
        self._share = share

    def rows(
        self,
        kind: str,
        contents: Sequence[bytes],
        compute: Callable[[Sequence[int]], dict[str, np.ndarray]],
        *,
        names: Sequence[str],
        on_done: Callable[[int], None],
    ) -> dict[str, np.ndarray]:
        """Return the rows of all contents: space -> (n, D); nothing on other ranks than the first.

        Every rank computes every W-th batch; only the first keeps, reads and writes.

        Args:
            kind: `image` or `text`.
            contents: their digests (n,).
            compute: embeds the contents of some places: space -> (B, D).
            names: of the contents, for the message where a row is not finite.
            on_done: called with how many are there.

        Raises:
            DataError: if a row is not finite.
        """
        share, cache, spaces = self._share, self._cache, self._spaces
        first: dict[bytes, int] = {}
        original = np.array([first.setdefault(content, row) for row, content in enumerate(contents)], np.int64)
        distinct = list(first)
        place = {row: at for at, row in enumerate(first.values())}
        known, old = cache.read(kind, distinct) if cache is not None and share.first else (np.array([], np.int64), {})
        if set(old) < set(spaces):  # an earlier evaluation without the uni-modal space
            known, old = np.array([], np.int64), {}
        there = set(share.agree(lambda: known.tolist()))
        missing = [row for at, row in enumerate(first.values()) if at not in there]
        done = len(contents) - len(missing)
        rows: dict[str, np.ndarray] = {}

        def keep(where: Sequence[int] | np.ndarray, blocks: dict[str, np.ndarray]) -> None:
            for space, block in blocks.items():
                if space not in rows:
                    rows[space] = np.empty((len(distinct), block.shape[1]), np.float32)
                rows[space][where] = block

        keep(known, {space: old[space] for space in spaces} if len(known) else {})
        for batches in self._turns(missing):
            made: dict[str, list[np.ndarray]] = {space: [] for space in spaces}
            for number, batch in enumerate(batches):
                if share.mine(number):
                    for space, block in compute(batch).items():
                        _check(block, batch, names, kind)
                        made[space].append(block)
                done += len(batch)
                on_done(done)
            order, whole = self._gather(batches, made)
            if share.first:
                keep([place[row] for row in order], whole)
                if cache is not None:
                    cache.write(kind, [contents[row] for row in order], whole)
        if not share.first:
            return {}
        if not rows:
            rows = {space: np.zeros((0, self._width), np.float32) for space in spaces}
        everywhere = np.array([place[int(row)] for row in original], np.int64)
        return {space: block if len(distinct) == len(contents) else block[everywhere] for space, block in rows.items()}

    def _turns(self, missing: Sequence[int]) -> Iterator[list[Sequence[int]]]:
        """Give so many batches at a time that every rank has one file's worth; then all bring theirs together."""
        size = self._batch_size
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        turn = self._share.world * max(1, ROWS // size)
        for start in range(0, len(batches), turn):
            yield batches[start : start + turn]

    def _gather(
        self, batches: Sequence[Sequence[int]], made: Mapping[str, Sequence[np.ndarray]]
    ) -> tuple[list[int], dict[str, np.ndarray]]:
        """Return, on the first rank, the places of all ranks' rows in the order in which they come, and the rows."""
        share = self._share
        counts = [sum(len(batch) for batch in batches[rank :: share.world]) for rank in range(share.world)]
        order = [row for rank in range(share.world) for batch in batches[rank :: share.world] for row in batch]
        gathered = {}
        for space, blocks in made.items():
            block = np.concatenate(blocks) if blocks else np.zeros((0, self._width), np.float32)
            gathered[space] = share.collect(block, counts)
        return order, {space: np.concatenate(parts) for space, parts in gathered.items()} if share.first else {}


def _check(block: np.ndarray, rows: Sequence[int], names: Sequence[str], kind: str) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(1))
    if bad.size:
        raise DataError(
            f"The embedding of the {kind} {names[rows[int(bad[0])]]!r} holds NaN or infinity ({bad.size} such rows in "
            "its batch): the model diverged or its weights are broken.",
            key=names[rows[int(bad[0])]],
        )


def spaces_of_batch(
    student: "Student",
    modality: Modality,
    inputs: Any,
    spaces: "Sequence[Space]",
    *,
    kept: PartsCache | None = None,
    contents: Sequence[bytes] = (),
) -> dict[str, np.ndarray]:
    """Embed a batch of pixels or tokens in some spaces, the tower run once where the student can.

    Args:
        student: in evaluation mode.
        modality: which tower.
        inputs: what `encode_image` or `encode_text` takes.
        spaces: wanted.
        kept: takes the parts, if the student embeds them.
        contents: of the batch, for `kept`.

    Returns:
        Space -> (B, D) float32 unit rows.
    """
    if student.embeds_parts:
        parts = student.image_parts(inputs) if modality == "image" else student.text_parts(inputs)
        if kept is not None:
            kept.keep(modality, contents, parts)
        rows = {space: student.embed(parts, space, modality) for space in spaces}
    else:
        encode = student.encode_image if modality == "image" else student.encode_text
        rows = {space: encode(inputs, space) for space in spaces}
    return {space: value.float().cpu().numpy() for space, value in rows.items()}


def read_images(student: "Student", split: Split, rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the pixels of some images of a split, on the device.

    Raises:
        DataError: if one does not decode.
    """
    arrays = np.stack([student.image_array(picture(split, row)) for row in rows])
    return student.pixels(torch.from_numpy(arrays).to(device))


def _table_rows(table_NW: np.ndarray, rows: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return some rows of a table as float32, on the device."""
    return torch.from_numpy(table_NW[np.asarray(rows, np.int64)].astype(np.float32)).to(device)


def read_texts(student: "Student", texts: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the tokens of some captions, on the device."""
    return {name: values.to(device) for name, values in student.tokenize(texts).items()}


@contextmanager
def ready(student: "Student", config: EvalConfig) -> Iterator[torch.device]:
    """Put a student into evaluation mode and onto the device, and back afterwards."""
    was_training, home = student.training, next(student.parameters()).device
    device = choose(config.device)
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
