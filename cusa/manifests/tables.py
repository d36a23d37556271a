"""Teacher tables: unit vectors keyed to the rows of a split, refused when they belong to another one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError, StaleError
from cusa.manifests import ledger, schemas
from cusa.manifests.origin import IMPORTED, LOCAL, is_same_origin, name_of_one_modality, read_origin, teacher_name
from cusa.manifests.samples import Split
from cusa.manifests.storage import store

KEY_OF = {"image": "key", "text": "caption_key"}
TOWER = "tower-"
"""How the names of tables begin that hold what a student's frozen tower gives: nobody's teachers."""
_GROUP_BYTES = 8 << 20  # a row of flattened patch tokens is 75 KB: groups are cut by bytes, not by rows


@dataclass(frozen=True)
class TeacherTable:
    """All rows of one teacher over one split.

    Attributes:
        teacher: the folder's name.
        modality: `image` or `text`.
        keys: one a row, in the split's order.
        embeddings: (rows, width), float16 or float32, unit length.
        metadata: provenance: teacher, revision, weights_sha256, preprocessing, transform, dtype.
    """

    teacher: str
    modality: str
    keys: list[str]
    embeddings: np.ndarray
    metadata: Mapping[str, str]


def write_teacher_part(
    path: Path,
    *,
    modality: str,
    keys: list[str],
    contents: pa.Array,
    embeddings: np.ndarray,
    metadata: Mapping[str, str],
) -> None:
    """Write the table of one shard, whole.

    Args:
        path: for example `train/teachers/NAME/00000.parquet`.
        modality: `image` or `text`.
        keys: image or caption keys, in the shard's order.
        contents: SHA-256 of what each row was made from, `pa.binary(32)`.
        embeddings: (rows, width) float16 or float32.
        metadata: provenance, `shard_sha256` among it.

    Raises:
        DataError: if a row is not finite, is zero or one number repeated, or all rows are the same; with its key.
    """
    assert len(keys) == len(embeddings) == len(contents), (len(keys), embeddings.shape, len(contents))
    norms = row_norms(embeddings)
    bad = np.flatnonzero(~(np.abs(norms - 1) < 1e-2))
    if bad.size:
        raise DataError(
            f"Teacher {metadata.get('teacher')!r} gave {keys[bad[0]]!r} a vector of length {norms[bad[0]]}, not 1 "
            f"({bad.size} such rows). A teacher must return finite, unit-length rows.",
            key=keys[bad[0]],
        )
    refuse_blind_rows(keys, contents, embeddings, teacher=metadata.get("teacher", ""))
    width = embeddings.shape[1]
    schema = schemas.teacher_table(KEY_OF[modality], width, str(embeddings.dtype))
    flat = pa.array(embeddings.reshape(-1), type=schema.field("embedding").type.value_type)
    columns = [pa.array(keys, pa.string()), pa.FixedSizeListArray.from_arrays(flat, width), contents]
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata(dict(metadata)))
    store.write_table(path, table, rows_per_group=max(1, _GROUP_BYTES // (width * embeddings.itemsize)))


def row_norms(embeddings: np.ndarray) -> np.ndarray:
    """Return the length of each row, (rows,) float32, a block of rows at a time."""
    step = max(1, _GROUP_BYTES // (4 * embeddings.shape[1]))
    blocks = [embeddings[start : start + step].astype(np.float32) for start in range(0, len(embeddings), step)]
    return np.concatenate([np.sqrt(np.einsum("nd,nd->n", rows, rows)) for rows in blocks] or [np.zeros(0, np.float32)])


_MANY = 16  # different images or texts that a teacher must not map to one and the same row


def refuse_blind_rows(keys: list[str], contents: pa.Array, embeddings: np.ndarray, *, teacher: str) -> None:
    """Refuse what a teacher gives that sees nothing: one number repeated, or the same row whatever it is shown.

    Raises:
        DataError: with the key of the first such row.
    """
    if not len(keys):
        return
    flat = np.flatnonzero((embeddings == embeddings[:, :1]).all(axis=1)) if embeddings.shape[1] > 1 else np.zeros(0)
    if flat.size:
        raise DataError(
            f"Teacher {teacher!r} gave {keys[int(flat[0])]!r} a constant row, one number repeated ({flat.size} such "
            "rows). Its weights or its preprocessing are broken.",
            key=keys[int(flat[0])],
        )
    if (embeddings == embeddings[0]).all() and len(contents.unique()) >= _MANY:
        raise DataError(
            f"Teacher {teacher!r} gave {len(keys)} rows that are all the same, from {keys[0]!r} on, though what it was "
            "shown differs. Its weights or its preprocessing are broken.",
            key=keys[0],
        )


def read_part_metadata(path: Path) -> dict[str, str]:
    """Return the provenance written into one part; empty if the file is missing or broken."""
    return describe_part(path)[0]


def describe_part(path: Path) -> tuple[dict[str, str], int]:
    """Return the provenance of one part and its rows, without reading them; nothing and 0 if it is missing or broken.

    A file that was cut anywhere has lost its end, and with it the footer that this reads.
    """
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            metadata, rows = file.schema_arrow.metadata or {}, file.metadata.num_rows
            return {k.decode(): v.decode() for k, v in metadata.items() if not k.startswith(b"ARROW")}, rows
    except (pa.ArrowException, OSError, ValueError):  # the last: metadata that are no text
        return {}, 0


def part_width(path: Path) -> int:
    """Return the numbers an embedding of a part has, read from its footer.

    Raises:
        DataError: if it is missing or broken.
    """
    try:
        with path.open("rb") as opened:
            return int(pq.read_schema(opened).field("embedding").type.list_size)
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        KeyError,
        AttributeError,
    ) as error:  # the last: another kind of column
        raise DataError(f"{path} is no readable teacher table ({error}). Make it again.", path=path) from error


def teachers(split: Split, *, towers: bool = False) -> dict[str, str]:
    """Return the teachers whose tables lie in a split: name -> modality.

    Args:
        split: the split.
        towers: whether the tables of students' frozen towers are listed too.
    """
    modalities = {}
    for folder in sorted((split.folder / "teachers").glob("*/")):
        part = next(iter(sorted(folder.glob("[0-9]*.parquet"))), None)
        if part is not None and (towers or not folder.name.startswith(TOWER)):
            modalities[folder.name] = read_part_metadata(part).get("modality", "")
    return modalities


def find_teacher(split: Split, modality: str, teacher: str) -> str:
    """Return the tables that a user's word for a teacher stands for; empty where the split has none.

    Args:
        split: the split.
        modality: `image` or `text`.
        teacher: the tables' own name; a folder, whose tables are found by the digest of its weights, wherever it lay
            when they were made and whatever they are called; a hub name or `module:Class`.

    Raises:
        DataError: if several tables were made with a folder's weights and none has its name.
    """
    names = [name for name, kind in teachers(split).items() if kind == modality]
    if teacher in names:
        return teacher
    own = teacher_name(teacher)
    path = Path(teacher).expanduser()
    if not path.is_dir():
        called = (own, name_of_one_modality(teacher, modality))
        return next((name for name in called if name in names and not _is_anothers(split, name, teacher)), "")
    digest = store.sha256_folder(path)
    made = [name for name in names if provenance(split, name)["weights_sha256"] == digest]
    if len(made) > 1 and own not in made:
        raise DataError(
            f"{split.folder} has several {modality} tables of {teacher}: {', '.join(made)}. Name one of these.",
            split=split.name,
            teacher=teacher,
        )
    return own if own in made else "".join(made)


def _is_anothers(split: Split, table: str, teacher: str) -> bool:
    """Tell whether tables of a name were made by another model of a hub, or another class, than the one meant."""
    if provenance(split, table)["revision"] in (LOCAL, IMPORTED):
        return False  # they have no name but their own
    return not is_same_origin(read_origin(split.folder / "teachers" / table), teacher)


def choose_teacher(split: Split, modality: str, name: str = "") -> str:
    """Return the tables that `name` stands for, see `find_teacher`, or the split's only ones of a modality.

    Raises:
        DataError: if there are none, or several and no name; the message lists them.
    """
    names = [teacher for teacher, kind in teachers(split).items() if kind == modality]
    command = f"cusa extract-teachers {split.work} --{modality} {name or 'TEACHER'}"
    if name:
        table = find_teacher(split, modality, name)
        if not table:
            raise DataError(
                f"{split.folder} has no {modality} teacher {name!r}; it has {', '.join(names) or 'none'}. Run "
                f"`{command}`.",
                split=split.name,
                teacher=name,
            )
        return table
    if not names:
        raise DataError(f"{split.folder} has no {modality} teacher. Run `{command}`.", split=split.name)
    if len(names) > 1:
        raise DataError(
            f"{split.folder} has several {modality} teachers: {', '.join(names)}. Name one "
            f"(`--{modality} NAME`, or `--set teachers.{modality}=NAME` for a recipe).",
            split=split.name,
        )
    return names[0]


def teacher_digest(split: Split, teacher: str) -> str:
    """Return one digest over every byte of a teacher's tables.

    What depends on them carries it: indices, neighbour tables, caches, checkpoints. A part whose size and modification
    time are those of the extraction's ledger has the SHA-256 recorded there; another one is read.

    Raises:
        DataError: if a part cannot be read.
    """
    folder = split.folder / "teachers" / teacher
    written = ledger.read(folder / "ledger.json")
    parts = sorted(part.name for part in folder.glob("[0-9]*.parquet"))
    try:
        return store.digest([(name, ledger.output_digest(written, folder, name)) for name in parts])
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}).", path=folder, teacher=teacher) from error


@dataclass(frozen=True)
class TeacherPart:
    """The rows of one teacher over one shard; see `TeacherTable`."""

    modality: str
    keys: list[str]
    embeddings: np.ndarray
    metadata: Mapping[str, str]


def read_parts(split: Split, teacher: str) -> Iterator[TeacherPart]:
    """Read a teacher over a split part by part, and check that each belongs to it.

    Args:
        split: the split.
        teacher: the folder's name under `teachers/`.

    Raises:
        DataError: if the table, a part or a row is missing, a part is broken, or its bytes are not those that
            the extraction wrote.
        StaleError: if a part was made from another state of its shard, or has another order of keys.
    """
    folder = split.folder / "teachers" / teacher
    again = f"cusa extract-teachers {split.work}"
    modality = teachers(split, towers=True).get(teacher)
    if modality is None:
        have = ", ".join(teachers(split)) or "none"
        raise DataError(f"{split.folder} has no teacher {teacher!r}; it has {have}. Run `{again}`.", teacher=teacher)
    file, column = ("samples.parquet", "key") if modality == "image" else ("captions.parquet", "caption_key")
    split_keys = _column(split.folder / file, column)
    written = ledger.read(folder / "ledger.json")
    for shard, sha256, images, captions in split.shard_rows():
        path = folder / f"{Path(shard).stem}.parquet"
        table = store.read_table(path, made_by=again)
        metadata = read_part_metadata(path)
        if metadata.get("shard_sha256") != sha256:
            raise StaleError(
                f"{path} was made from another {shard} (sha256 {metadata.get('shard_sha256', 'unknown')[:12]}, "
                f"the shard has {sha256[:12]}). Run `{again}` to make it again.",
                path=path,
            )
        part_keys = table[KEY_OF[modality]].to_pylist()
        expected = list(islice(split_keys, len(images if modality == "image" else captions)))
        if len(part_keys) < len(expected):
            lost = sorted(set(expected) - set(part_keys))
            raise DataError(f"{path} lacks {len(lost)} rows, the first {lost[0]!r}. Run `{again} --force`.", path=path)
        if part_keys != expected:
            raise StaleError(f"{path} has its keys in another order than {shard}. Run `{again} --force`.", path=path)
        # Rows replaced under the same metadata, and rows that a disk changed, look like any others.
        ledger.refuse_changed_output(written, folder, path.name)
        yield TeacherPart(modality, part_keys, embedding_matrix(table), metadata)


def read_teacher(split: Split, teacher: str) -> TeacherTable:
    """Read all parts of a teacher over a split and check that they belong to it; see `read_parts`."""
    parts = list(read_parts(split, teacher))
    if not parts:
        raise DataError(f"{split.folder} has no shards, so no teacher can be read.", path=split.folder)
    return TeacherTable(
        teacher,
        parts[-1].modality,
        [key for part in parts for key in part.keys],
        np.concatenate([part.embeddings for part in parts]),
        parts[-1].metadata,
    )


def _column(path: Path, column: str) -> Iterator[str]:
    """Give a column's values without holding the table."""
    for table in store.table_batches(path, columns=[column]):
        yield from table[column].to_pylist()


def embedding_matrix(table: pa.Table) -> np.ndarray:
    """Return the `embedding` column as (rows, width).

    Raises:
        DataError: if the column holds anything but lists of one length.
    """
    column = table["embedding"].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        raise DataError(f"The column 'embedding' is {column.type}, not lists of one length: make the table again.")
    width = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)


PROVENANCE = ("teacher", "revision", "weights_sha256", "preprocessing", "transform")
"""What makes a teacher the same teacher: a cosine of another one means something else."""


def provenance(split: Split, teacher: str) -> dict[str, str]:
    """Return what makes a teacher the same teacher, from its tables' metadata."""
    parts = sorted((split.folder / "teachers" / teacher).glob("[0-9]*.parquet"))
    metadata = read_part_metadata(parts[0]) if parts else {}
    return {key: metadata.get(key, "") for key in PROVENANCE} | ({"teacher": teacher} if not metadata else {})


def encoder_difference(one: tuple[Split, str], other: tuple[Split, str]) -> str:
    """Return in words what tells the encoders of two tables apart, empty where one made both.

    Names and folders do not count: weights, preprocessing, transform and width do. Of imported rows only the width is
    known, as each file has its own digest.

    Args:
        one: a split, and the name of a table of it.
        other: likewise.
    """
    parts = [min((split.folder / "teachers" / name).glob("[0-9]*.parquet")) for split, name in (one, other)]
    facts = [
        {**provenance(*table), "width": str(part_width(part))} for table, part in zip((one, other), parts, strict=True)
    ]
    imported = [about["revision"] == IMPORTED for about in facts]
    compared = ["width"] if all(imported) else ["width", "weights_sha256", "preprocessing", "transform"]
    if not any(about["weights_sha256"] for about in facts) and not any(imported):
        compared.append("revision")  # what a hub gave no digest is known by
    return "; ".join(
        f"{key.replace('_', ' ')} {facts[0][key][:60]!r} and {facts[1][key][:60]!r}"
        for key in compared
        if facts[0][key] != facts[1][key]
    )
