"""A split as tables that embedding-atlas opens: a row an image, a row a caption, each with a place on a map."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from cusa.integrations import rows
from cusa.manifests import tables
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

_SIDE = 256  # of a thumbnail
_WIDEST = 4096  # rows of flattened patch tokens would be most of the file
_NEIGHBOURS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(split: Split, out: Path, *, image: str = "", text: str = "") -> tuple[list[Path], tuple[str, ...]]:
    """Write `SPLIT-images.parquet` and `SPLIT-captions.parquet`.

    `x` and `y` are the first two principal components of the teacher's rows; `neighbors` has row numbers and cosine
    distances, as embedding-atlas reads them; `vector` has the rows themselves (of at most 4,096 numbers), for a map by
    its own UMAP.

    Args:
        split: the split.
        out: the folder.
        image: the image teacher; the only one if empty.
        text: the text teacher, likewise.

    Returns:
        The files, and what is missing with the command that makes it.
    """
    files: list[Path] = []
    notes: list[str] = []
    kinds = (("images", rows.of_images(split, teacher=image)), ("captions", rows.of_captions(split, teacher=text)))
    for name, known in kinds:
        extra: dict[str, Any] = {}
        if known.teacher:
            embeddings = tables.read_teacher(split, known.teacher).embeddings
            plane = rows.principal_components(embeddings)
            extra = {"x": plane[:, 0], "y": plane[:, 1]}
            if embeddings.shape[1] <= _WIDEST:
                flat = pa.array(embeddings.astype("float32").reshape(-1))
                extra["vector"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
        if known.neighbours:
            extra["neighbors"] = pa.array(known.neighbours, _NEIGHBOURS)
        if name == "images":
            extra["image"] = pa.array([_thumbnail(split, row) for row in range(split.num_images)], _IMAGE)
        path = out / f"{split.name}-{name}.parquet"
        store.write_table(path, rows.table(known, extra), rows_per_group=4096)
        files.append(path)
        notes += [note for note in known.notes if note not in notes]
    return files, tuple(notes)


def _thumbnail(split: Split, row: int) -> dict[str, object]:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(split.image_bytes(row))) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=85)
    return {"bytes": buffer.getvalue(), "path": f"{split.image_keys[row]}.jpg"}
