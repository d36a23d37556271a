"""The folder that clip-retrieval's inference writes: `img_emb/*.npy`, `text_emb/*.npy`, `metadata/*.parquet`.

Each part of the metadata (`image_path`, `caption`, further columns) names the rows of the `.npy` of the same number.

Source: clip_retrieval/clip_inference/writer.py of https://github.com/rom1504/clip-retrieval.
"""

from pathlib import Path

import numpy as np

from cusa.errors import DataError
from cusa.manifests.storage import arrays, store

_FOLDERS = {"image": "img_emb", "text": "text_emb"}
_COLUMNS = {"image": "image_path", "text": "caption"}


def read(folder: Path, modality: str) -> tuple[list[object], np.ndarray]:
    """Return the identifiers and the vectors of one modality, all parts together.

    Args:
        folder: as clip-retrieval wrote it.
        modality: `image`, by the names of the image files (their paths where two files are of one name); or `text`, by
            the captions themselves, each once.

    Raises:
        DataError: if the folder has no embeddings of that modality, or a part does not fit its metadata.
    """
    vectors_of, column = folder / _FOLDERS[modality], _COLUMNS[modality]
    parts = sorted(vectors_of.glob("*.npy"))
    if not parts:
        other = next((name for name, there in _FOLDERS.items() if any((folder / there).glob("*.npy"))), "")
        there = f"; it holds those of {other}s: give it with --{other}" if other else ""
        raise DataError(
            f"{folder} has no embeddings of {modality}s ({_FOLDERS[modality]}/*.npy of clip-retrieval){there}.",
            path=folder,
        )
    names: list[object] = []
    blocks: list[np.ndarray] = []
    for part in parts:
        number = part.stem.rpartition("_")[2]
        metadata = folder / "metadata" / f"metadata_{number}.parquet"
        table = store.read_table(metadata, made_by="clip-retrieval inference")
        if column not in table.column_names:
            raise DataError(
                f"{metadata} has no column {column!r}; it has {', '.join(table.column_names)}.", path=metadata
            )
        try:
            block = arrays.load(part)
        except (ValueError, OSError) as error:
            raise DataError(f"{part} cannot be read: {str(error).splitlines()[0]}", path=part) from error
        if block.ndim != 2 or len(block) != table.num_rows or (blocks and block.shape[1] != blocks[0].shape[1]):
            raise DataError(
                f"{part} is {block.dtype} of shape {block.shape}, and {metadata} names {table.num_rows} rows"
                + (f" of {blocks[0].shape[1]} numbers" if blocks else "")
                + ". Run clip-retrieval again for this part.",
                path=part,
            )
        names += [str(name) for name in table[column].to_pylist()]
        blocks.append(block)
    vectors = np.concatenate(blocks)
    if modality == "text":
        first = {name: row for row, name in reversed(list(enumerate(names)))}
        rows = sorted(first.values())
        return [names[row] for row in rows], vectors[rows]
    short: list[object] = [str(name).replace("\\", "/").rpartition("/")[2] for name in names]
    return (short if len(set(short)) == len(short) else names), vectors
