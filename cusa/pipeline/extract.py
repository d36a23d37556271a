"""Extraction: the embeddings of a frozen teacher, once an image or caption, beside the shards they belong to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests import ledger, store, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.samples import Split
from cusa.models.teachers import Teacher, load_teacher, teacher_name, weights_digest
from cusa.pipeline.config import ExtractConfig
from cusa.pipeline.stage import Outcome, outcome


def run(
    config: ExtractConfig,
    *,
    split: Split,
    teacher: str,
    modality: str,
    force: bool = False,
    on_event: OnEvent = ignore,
    load: Callable[[str, str], Teacher] = load_teacher,
) -> Outcome:
    """Write the teacher tables of one split, one part a shard, rows in the shard's order.

    A part that is already there, made by the same teacher from the same shard, is kept; so a killed run goes on where
    it was, and a grown data set costs what was added.

    Args:
        config: batch size, number type, text transform.
        split: the split to embed.
        teacher: name or folder, see `cusa.models.teachers.load_teacher`.
        modality: `image` or `text`.
        force: embed again even if nothing changed.
        on_event: hears of every batch.
        load: makes the teacher; called only if there is something to embed.

    Returns:
        The outcome; counts has the rows and those that were computed now.

    Raises:
        DataError: if an image cannot be decoded or the teacher gives a row that is not of unit length.
    """
    clock = ledger.Clock()
    name = teacher_name(teacher)
    folder = split.folder / "teachers" / name
    transform = config.transform if modality == "text" else "rgb"
    weights = weights_digest(teacher)
    inputs = {"split": split.digest}
    parameters = {
        "teacher": name,
        "modality": modality,
        "weights_sha256": weights,
        "dtype": config.dtype,
        "transform": transform,
    }
    book = folder / "ledger.json"
    why = "--force" if force else ledger.why_not_current(book, inputs=inputs, parameters=parameters)
    old = ledger.read(book)
    if why is None and old is not None:
        return outcome(folder, old)

    store.sweep(folder)
    total = split.num_images if modality == "image" else split.num_captions
    what = f"{name} on {split.name}"
    model: Teacher | None = None
    parts, computed, done = [], 0, 0
    on_event(what, 0, total)
    for shard, sha256, images, captions in split.shard_rows():
        path = folder / f"{Path(shard).stem}.parquet"
        rows = images if modality == "image" else captions
        stamp = {**{key: str(value) for key, value in parameters.items()}, "shard": shard, "shard_sha256": sha256}
        if force or not _is_whole(path, stamp, len(rows)):
            model = model or load(teacher, modality)
            blocks = []
            for start in range(rows.start, rows.stop, config.batch_size):
                batch = range(start, min(start + config.batch_size, rows.stop))
                blocks.append(_encode(model, split, modality, batch, transform).astype(config.dtype))
                done += len(batch)
                on_event(what, done, total)
            keys = split.image_keys if modality == "image" else split.caption_keys
            tables.write_teacher_part(
                path,
                modality=modality,
                keys=keys[rows.start : rows.stop],
                embeddings=np.concatenate(blocks),
                metadata={**model.provenance(), **stamp},
            )
            computed += len(rows)
        else:
            done += len(rows)
            on_event(what, done, total)
        parts.append(path)
    for stale in set(folder.glob("[0-9]*.parquet")) - set(parts):
        stale.unlink()
    counts = {"rows": total, "computed": computed, "width": _width(parts[0])}
    written = clock.finish(
        book, stage="extract-teachers", inputs=inputs, parameters=parameters, outputs=parts, counts=counts
    )
    return outcome(folder, written, why=str(why))


def _encode(model: Teacher, split: Split, modality: str, rows: range, transform: str) -> np.ndarray:
    if modality == "text":
        from cusa.models.captions import TRANSFORMS

        return model.encode([TRANSFORMS[transform](split.texts[row]) for row in rows])
    from cusa.models.preprocess import decode_rgb

    pictures = []
    for row in rows:
        try:
            pictures.append(decode_rgb(split.image_bytes(row)))
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{split.image_keys[row]} in {split.folder} does not decode any more ({error}): the tar was damaged "
                "after sharding. Make it again with `cusa shard ... --force`.",
                key=split.image_keys[row],
            ) from error
    return model.encode(pictures)


def _is_whole(path: Path, stamp: dict[str, str], rows: int) -> bool:
    """Tell whether a part was made by the same teacher from the same shard and can be read to its end."""
    metadata = tables.read_part_metadata(path)
    if any(metadata.get(key) != value for key, value in stamp.items()):
        return False
    try:
        return store.read_table(path).num_rows == rows
    except DataError:
        return False


def _width(path: Path) -> int:
    return store.read_table(path, columns=["embedding"]).schema.field("embedding").type.list_size
