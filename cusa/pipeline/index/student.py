"""A cross-modal student's embeddings as a third index: images and captions in one space, each among the other.

Written to `index/`: `<student>-images.faiss`, `<student>-captions.faiss` (flat, so that they hold the rows exactly) and
a neighbour table for each, `cross-<student>-images.parquet` (the captions nearest to each image) and `...-captions`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cusa.errors import DataError
from cusa.manifests import ledger, schemas, tables
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.origin import teacher_name
from cusa.manifests.samples import Split
from cusa.manifests.stage import Outcome, StageRun
from cusa.manifests.storage import store
from cusa.models import features, source
from cusa.models.features import FEATURES
from cusa.pipeline.config import IndexConfig
from cusa.pipeline.index.files import read_index, write_index
from cusa.pipeline.index.neighbours import CrossModal
from cusa.pipeline.index.vectors import refuse_unusable_rows

if TYPE_CHECKING:
    from cusa.models.students.base import Student

_FILE_OF = {"image": "images", "text": "captions"}  # modality -> how its files are called
_FEATURES = "features_sha256"
_A_BATCH = 64
_ROWS_A_BLOCK = 4096


@dataclass(frozen=True)
class StudentIndex:
    """A split as a student embeds it.

    Attributes:
        cross: rows and neighbours, as deep as they were indexed.
        provenance: teacher (its name), weights_sha256.
    """

    cross: CrossModal
    provenance: dict[str, str]

    def neighbourhoods(self, depth: int) -> CrossModal:
        """Return rows and neighbours, the neighbours cut to a depth."""
        cross = self.cross
        return replace(cross, near_captions=cross.near_captions[:, :depth], near_images=cross.near_images[:, :depth])


def run(
    config: IndexConfig,
    *,
    split: Split,
    student: str,
    force: bool = False,
    on_event: OnEvent = ignore,
    load: Callable[[str], "Student"] | None = None,
) -> Outcome:
    """Embed a split with a student, and write an index of each modality and the neighbours in the other one.

    Args:
        config: how many neighbours.
        split: the split.
        student: a run, a model folder or a hub name.
        force: embed again even if nothing changed.
        on_event: called with every batch.
        load: makes the student of its name; `cusa.models.student.load` if None.

    Returns:
        The outcome; counts has the rows of both modalities.

    Raises:
        DataError: if there is no such student, or an image does not decode.
    """
    folder, name = split.folder / "index", student_name(student)
    weights = source.weights_digest(student)
    read = features.digests(split, features.read_by(student))
    inputs = {"split": split.digest, "student": weights, **read}
    parameters = {"student": name, "neighbours": config.neighbours}
    stage = StageRun("index", folder / f"cross-{name}.ledger.json", inputs=inputs, parameters=parameters, force=force)
    if stage.up_to_date:
        return stage.reuse()
    with stage.begin(unless_held=split.locks):
        rows = _embed(split, student, load, on_event)
        weights = source.weights_digest(student)  # of a hub's model it is known once the files are here
        written: list[Path] = []
        checksums, near = {}, {}
        from cusa.pipeline.index.exact import flat_index

        for modality, other in (("image", "text"), ("text", "image")):
            index = flat_index(rows[modality])
            written.append(folder / f"{name}-{_FILE_OF[modality]}.faiss")
            checksums[modality] = write_index(written[-1], index)
            depth = min(config.neighbours, len(rows[modality]))
            # The other modality's rows search this one: the table lists what is nearest to each of those.
            near[other] = _neighbours(split, index, rows[other], depth, modality=modality)
        for modality, table in near.items():
            stamp = {"split": split.digest, "student": name, "weights_sha256": weights, **checksums[modality]}
            stamp |= {_FEATURES: store.digest(read)} if read else {}
            written.append(folder / f"cross-{name}-{_FILE_OF[modality]}.parquet")
            store.write_table(written[-1], table.replace_schema_metadata(stamp))
        counts = {"images": len(rows["image"]), "captions": len(rows["text"]), "width": rows["image"].shape[1]}
        return stage.finish(outputs=written, counts=counts, inputs={**inputs, "student": weights})


def read_student(split: Split, student: str) -> StudentIndex:
    """Read what `run` wrote.

    Args:
        split: the split.
        student: the student, by the name or path that was indexed.

    Raises:
        DataError: if it was not indexed, or a file is broken.
        StaleError: if it was made from another state of the split or the student.
    """
    name, made_by = student_name(student), _made_by(split, student)
    rows, near = {}, {}
    for modality in _FILE_OF:
        index = open_index(split, student, modality)
        rows[modality] = index.reconstruct_n(0, index.ntotal)
        path = _table_path(split, name, modality)
        column = store.read_table(path, columns=["neighbours"], made_by=made_by)["neighbours"].combine_chunks()
        number = split.num_images if modality == "image" else split.num_captions
        others = split.num_captions if modality == "image" else split.num_images
        ids = column.field("ids").flatten().to_numpy()
        width = len(ids) // max(number, 1)
        if len(ids) != number * width or (ids.size and (ids.min() < 0 or ids.max() >= others)):
            raise DataError(
                f"{path} has not one whole row for each of {number} rows. Run `{made_by} --force`.", path=path
            )
        near[modality] = ids.reshape(number, width)
        refuse_unusable_rows(rows[modality], _keys(split, modality), path=path, way_out=f"Run `{made_by} --force`.")
    weights = tables.read_part_metadata(_table_path(split, name, "image")).get("weights_sha256", "")
    cross = CrossModal(rows["image"], rows["text"], near["image"], near["text"])
    return StudentIndex(cross, {"teacher": name, "weights_sha256": weights})


def open_index(split: Split, student: str, modality: str) -> Any:
    """Open the index of one modality, mapped from its file, once it is proven to be the one that was written.

    Args:
        split: the split.
        student: the student, by the name or path that was indexed; where it is there, its weights and the
            tables that it reads must be those.
        modality: `image` or `text`: of the rows.

    Raises:
        DataError: if it was not indexed, or a file is damaged.
        StaleError: if the split, the student's weights or a table that it reads have changed since.
    """
    name = student_name(student)
    made_from = {"split": split.digest, "student": name}
    if (weights := source.weights_digest(student)) != student:  # the student may be gone, its index remains
        made_from["weights_sha256"] = weights
        if read := features.digests(split, features.read_by(student)):
            made_from[_FEATURES] = store.digest(read)
    return read_index(
        split.folder / "index" / f"{name}-{_FILE_OF[modality]}.faiss",
        table=_table_path(split, name, modality),
        made_from=made_from,
        made_by=_made_by(split, student),
        rows=split.num_images if modality == "image" else split.num_captions,
    )


def embed_one(asked: Any, student: str, load: Callable[[str], "Student"] | None = None) -> np.ndarray:
    """Embed words or a picture with a student: (D,) float32, of unit length.

    Raises:
        DataError: if there is no such student, or its vector is not finite.
    """
    import torch

    from cusa.models.student import load as load_student

    model = (load or load_student)(student).eval()
    with torch.inference_mode():
        if isinstance(asked, str):
            rows = model.encode_text(model.tokenize([asked]))
        else:
            rows = model.encode_image(model.image_transform(asked)[None])
        row_D = np.asarray(rows[0].float().numpy())
    if not np.isfinite(row_D).all():
        raise DataError(f"The student {student!r} gave no usable vector for the query. Its weights are broken.")
    return row_D


def student_digest(split: Split, student: str) -> str:
    """Return a digest of every byte of a student's index; of nothing where it was not indexed."""
    folder, name = split.folder / "index", student_name(student)
    written = ledger.read(folder / f"cross-{name}.ledger.json")
    files = [f"cross-{name}-{file}.parquet" for file in _FILE_OF.values()]
    files += [f"{name}-{file}.faiss" for file in _FILE_OF.values()]
    there = [file for file in files if (folder / file).is_file()]
    return store.digest([(file, ledger.output_digest(written, folder, file)) for file in there])


def student_name(student: str) -> str:
    """Return the name that a student's files get."""
    return teacher_name(student)


def _made_by(split: Split, student: str) -> str:
    return f"cusa index {split.work} --split {split.name} --student {student}"


def _table_path(split: Split, name: str, modality: str) -> Path:
    return split.folder / "index" / f"cross-{name}-{_FILE_OF[modality]}.parquet"


def _keys(split: Split, modality: str) -> list[str]:
    return split.image_keys if modality == "image" else split.caption_keys


def _embed(
    split: Split, student: str, load: Callable[[str], "Student"] | None, on_event: OnEvent
) -> dict[str, np.ndarray]:
    import torch

    from cusa.models.device import choose
    from cusa.models.preprocess import UNDECODABLE, decode
    from cusa.models.student import load as load_student

    model = (load or load_student)(student)
    if getattr(model, "scores_pairs", False) and not getattr(model, "pooled_weight", 0):
        raise DataError(
            f"{student} scores pairs and has no trained embedding to index; a dual encoder has, and one of late "
            "interaction with student.late.pooled_weight above 0.",
            student=student,
        )
    device = choose()
    model.eval().to(device)
    total, done = split.num_images + split.num_captions, 0

    def picture(row: int) -> Any:
        try:
            return model.image_array(decode(split.image_bytes(row)))  # type: ignore[arg-type]
        except UNDECODABLE as error:
            if isinstance(error, DataError):
                raise
            key = split.image_keys[row]
            raise DataError(f"{key} does not decode ({error}). Shard again with --force.", key=key) from error

    def batches(number: int) -> Iterator[range]:
        nonlocal done
        for start in range(0, number, _A_BATCH):
            rows = range(start, min(start + _A_BATCH, number))
            yield rows
            done += len(rows)
            on_event(f"embed {split.name} with {student_name(student)}", done, total)

    images, captions = [], []
    image_table = features.read_rows(split, "image", model.features.get("image"))
    text_table = features.read_rows(split, "text", model.features.get("text"))
    with torch.inference_mode():
        for rows in batches(split.num_images):
            table = image_table
            block = np.stack([picture(row) for row in rows]) if table is None else table[rows.start : rows.stop]
            arrays = torch.from_numpy(block).to(device)
            images.append(model.encode_image(model.pixels(arrays)).float().cpu().numpy())
        for rows in batches(split.num_captions):
            if text_table is None:
                tokens = model.tokenize(split.texts[rows.start : rows.stop])
            else:
                tokens = {FEATURES: torch.from_numpy(text_table[rows.start : rows.stop])}
            tokens = {name: values.to(device) for name, values in tokens.items()}
            captions.append(model.encode_text(tokens).float().cpu().numpy())
    empty = np.zeros((0, model.width), dtype=np.float32)
    made = {"image": np.concatenate([empty, *images]), "text": np.concatenate([empty, *captions])}
    for modality, rows_ND in made.items():
        refuse_unusable_rows(rows_ND, _keys(split, modality), path=Path(student), way_out="Its weights are broken.")
    return made


def _neighbours(split: Split, index: Any, query_QD: np.ndarray, depth: int, *, modality: str) -> pa.Table:
    """Search the index of a modality for the rows of the other one."""
    other = "text" if modality == "image" else "image"
    indexed_keys, query_keys = pa.array(_keys(split, modality), pa.string()), _keys(split, other)
    schema = schemas.neighbour_table(tables.KEY_OF[other])
    blocks = [schema.empty_table()]
    for start in range(0, len(query_QD) if depth else 0, _ROWS_A_BLOCK):
        similarities, ids = index.search(query_QD[start : start + _ROWS_A_BLOCK], depth)
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * depth)
        flat = pa.array(ids.reshape(-1))
        pair = [pa.ListArray.from_arrays(offsets, values) for values in (flat, pa.array(1 - similarities.reshape(-1)))]
        columns = [
            pa.array(query_keys[start : start + len(ids)], pa.string()),
            pa.ListArray.from_arrays(offsets, indexed_keys.take(flat)),
            pa.ListArray.from_arrays(offsets, pa.array(similarities.reshape(-1))),
            pa.StructArray.from_arrays(pair, fields=list(schema.field("neighbours").type)),
        ]
        blocks.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(blocks)
