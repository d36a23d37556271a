"""Which pairs are known to match: from a data set's own table, or from the files of ECCV Caption and CxC."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cusa.errors import DataError
from cusa.manifests import schemas
from cusa.manifests.judgements import coco_matches
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

_FILES = re.compile(r"(?P<name>.+)_(?P<query>image|caption)_to_(caption|image)\.json")


@dataclass(frozen=True)
class KnownTruth:
    """Pairs known to match, as rows of a split.

    Attributes:
        images: (P,) image rows.
        captions: (P,) caption rows; no pair twice.
        complete: True if every other pair is known not to match; False if the rest was never judged.
        source: where it comes from, in words.
        unknown: pairs left out because the split has not both ends.
    """

    images: np.ndarray
    captions: np.ndarray
    complete: bool
    source: str
    unknown: int

    def false_negatives(self, caption_owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the image rows and caption rows of the known pairs that the data set does not make itself."""
        others = caption_owner[self.captions] != self.images
        return self.images[others], self.captions[others]


def find_truth(split: Split, source: Path | None) -> Path | None:
    """Return the source that was named, else the split's own `truth.parquet`, else None.

    Raises:
        DataError: if the named source does not exist.
    """
    if source is not None:
        if not source.exists():
            raise DataError(
                f"--truth {source} does not exist. Give a table with image_key and caption_key, or a folder of "
                "ECCV Caption's files.",
                path=source,
            )
        return source
    own = split.folder / "truth.parquet"
    return own if own.is_file() else None


def truth_digest(source: Path) -> str:
    """Return the SHA-256 of a truth table or folder."""
    return store.sha256_file(source) if source.is_file() else store.sha256_folder(source)


def read_truth(split: Split, source: Path) -> KnownTruth:
    """Read the known matches of a split.

    Args:
        split: the split they speak of.
        source: a table with the columns of `schemas.TRUTH`, complete unless its metadata say `complete: false`; or a
            folder with files `NAME_image_to_caption.json` and `NAME_caption_to_image.json` in the layout of the
            `eccv_caption` package (COCO image id -> COCO caption ids, and the reverse), which are never complete.

    Raises:
        DataError: if it is missing, broken, or knows nothing of this split.
    """
    truth = _from_folder(split, source) if source.is_dir() else _from_table(split, source)
    if not len(truth.images):
        raise DataError(
            f"{source} knows no pair of the split {split.name!r} ({truth.unknown} pairs of other images or captions). "
            "Give the truth of this split.",
            path=source,
            split=split.name,
        )
    return truth


def write_truth(path: Path, split: Split, truth: KnownTruth) -> None:
    """Write known matches as a table that `read_truth` and SQL read."""
    columns = [
        pa.array(split.image_keys, pa.string()).take(pa.array(truth.images)),
        pa.array(split.caption_keys, pa.string()).take(pa.array(truth.captions)),
    ]
    metadata = {"complete": str(truth.complete).lower(), "source": truth.source}
    store.write_table(path, pa.Table.from_arrays(columns, schema=schemas.TRUTH.with_metadata(metadata)))


def _from_table(split: Split, source: Path) -> KnownTruth:
    table = store.read_table(source, columns=schemas.TRUTH.names)
    images = pc.index_in(table["image_key"], value_set=pa.array(split.image_keys, pa.string()))
    captions = pc.index_in(table["caption_key"], value_set=pa.array(split.caption_keys, pa.string()))
    rows, columns = (np.asarray(pc.fill_null(column, -1).to_numpy()) for column in (images, captions))
    known = (rows >= 0) & (columns >= 0)
    complete = (pq.read_schema(source).metadata or {}).get(b"complete") != b"false"
    return _unique(
        split, rows[known], columns[known], complete=complete, source=source.name, unknown=int((~known).sum())
    )


def _from_folder(split: Split, folder: Path) -> KnownTruth:
    """Read ECCV Caption's layout, by our keys or by COCO's ids."""
    images = split.image_row | {str(number): row for number, row in split.coco_ids.image_row().items()}
    captions = split.caption_row | {str(number): row for number, row in split.coco_ids.caption_row().items()}
    pairs, unknown, names = [], 0, set()
    for path in sorted(folder.glob("*.json")):
        match = _FILES.fullmatch(path.name)
        if match is None:
            continue
        names.add(match["name"])
        for query, answer in _pairs(path):
            image, caption = (query, answer) if match["query"] == "image" else (answer, query)
            if image in images and caption in captions:
                pairs.append((images[image], captions[caption]))
            else:
                unknown += 1
    if not names:
        raise DataError(
            f"{folder} holds no file NAME_image_to_caption.json or NAME_caption_to_image.json. Give the folder of "
            "ECCV Caption's ground truth.",
            path=folder,
        )
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return _unique(
        split,
        rows[:, 0],
        rows[:, 1],
        complete=False,
        source=f"{folder.name}: {', '.join(sorted(names))}",
        unknown=unknown,
    )


def _pairs(path: Path) -> list[tuple[str, str]]:
    return [(query, answer) for query, answers in coco_matches.read_named(path).items() for answer in answers]


def _unique(
    split: Split, images: np.ndarray, captions: np.ndarray, *, complete: bool, source: str, unknown: int
) -> KnownTruth:
    codes = np.unique(images.astype(np.int64) * max(split.num_captions, 1) + captions.astype(np.int64))
    rows, columns = np.divmod(codes, max(split.num_captions, 1))
    return KnownTruth(rows, columns, complete, source, unknown)
