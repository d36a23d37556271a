"""Tables with the pictures inside, as the hub has them: Parquet or Arrow, `image: {bytes, path}`, captions in columns.

Read are a file, a folder of such files (a hub data set's `data/train-00000-of-00006.parquet`), what the `datasets`
library leaves by `save_to_disk`, and `hf://datasets/OWNER/NAME`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError, nearest
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage.paths import is_remote, named_remote_errors
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers.captions import as_text, caption_records, listed_texts
from cusa.pipeline.readers.reading import BAD_ROW, Reading, Row, Rows, digests, refused_row
from cusa.pipeline.readers.sources import SourceRules, with_sources
from cusa.pipeline.readers.splits import RowSplits, default_note, named_splits, split_option
from cusa.pipeline.readers.table_cells import Cell, arrow_batches, arrow_cells

KINDS = (".parquet", ".arrow")
_PARTS = re.compile(r"(?P<split>[A-Za-z0-9_]+)-\d{5}(-of-\d{5})?(-[0-9a-f]+)?")
"""Names that the hub and our own export give to the files of a split."""
_OURS = re.compile(r"[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,80}")
_OUR_COLUMNS = ("key", "caption_keys", "caption_ids", "caption_sources", "source", "role")
"""Columns of our own export that say what others do not."""
_CAPTIONS = re.compile(r"(alt_?)?(captions?|texts?|sentences?|sentids?|descriptions?|raw)(_?\d+)?", re.IGNORECASE)
_NOT_CAPTIONS = re.compile(r"sentids?(_?\d+)?", re.IGNORECASE)
_BATCH = 1024


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read Parquet or Arrow tables that hold the pictures themselves.

    A caption column may hold a text or a list of texts; several columns, named by `--column caption=ONE,TWO` or all
    with usual names (`caption_0`, `caption_1`), are captions of one picture. A row's key is that in a column `key` of
    ours, the column of ids, the picture's file name, or else the file's name and the row's number.

    Args:
        source: a file, or a folder with files in it or below it.
        images: not used: the pictures are in the tables.
        config: the columns' names, the data set's name, and the split of rows that name none: by default that of the
            file's name, or of its folder's.

    Raises:
        DataError: if there is no such file, it cannot be read, or it lacks a column of pictures or captions.
    """
    files = _files(source)
    tables = [_Table(file, source, config) for file in files]
    dataset = config.dataset or re.sub(r"[^A-Za-z0-9_-]+", "_", _name(source))[:64] or "hub"
    rows = Rows(lambda: (row for table in tables for row in table.rows(dataset)))
    root = source if source.is_dir() else source.parent
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return Reading(dataset, rows, digests(root, files), notes=tuple(notes)[:3])


def _name(source: Path) -> str:
    """Return what a source calls itself: of `pets/data/train-00000-of-00001.parquet` that is pets."""
    if source.suffix.lower() in KINDS:
        if not _PARTS.fullmatch(source.stem):
            return source.stem
        source = source.parent
    return source.parent.name if source.name == "data" else source.name


def _files(source: Path) -> list[Path]:
    """Return the tables that a source names.

    Raises:
        DataError: if there is none.
    """
    with named_remote_errors(source):
        if source.is_dir():
            every = [file for kind in KINDS for file in source.rglob(f"*{kind}")]
            # What `datasets` keeps for itself beside a data set: its cache of computed columns.
            files = sorted((file for file in every if not file.name.startswith(("cache-", "."))), key=str)
        else:
            files = [source] if source.suffix.lower() in KINDS and source.is_file() else []
    if not files:
        raise DataError(
            f"{source} is no Parquet or Arrow file and holds none. For tars use the layout webdataset, for a table of "
            "paths the layout table.",
            path=source,
        )
    return files


@dataclass(frozen=True)
class _Columns:
    image: str
    captions: tuple[str, ...]
    split: str
    label: str
    item: str
    source: str
    """Of the captions' sources."""
    names: tuple[str, ...]
    """Of the label's classes, where the table's metadata has them."""

    @property
    def all(self) -> list[str]:
        """Every column that is read besides the picture."""
        others = (self.split, self.label, self.item, self.source)
        return [name for name in dict.fromkeys((*self.captions, *others)) if name]


class _Table:
    """One file."""

    def __init__(self, path: Path, source: Path, config: ReadConfig) -> None:
        given = (source.name,) if path != source else ()  # of a folder that was named; of a file its own name says it
        root = source if given else path.parent
        self._path = path
        self._config = config
        self._where = path.relative_to(root).as_posix()
        schema = _schema(path)
        self._columns, self.notes = _columns(path, schema, config)
        self._rules = SourceRules(config.caption_sources)
        self._rules.refuse_others(self._columns.captions, "columns of captions")
        self._ours = [name for name in _OUR_COLUMNS if name in schema.names]
        if "key" not in self._ours:
            self._ours = []
        self._struct = pa.types.is_struct(schema.field(self._columns.image).type)
        part = _PARTS.fullmatch(path.stem)
        self._split = config.split
        if not self._split and part and (named := part["split"]) not in ("data", "part"):
            self._split = split_option(named)
        names = (path.stem, *(folder for folder in reversed(path.relative_to(root).parent.parts)), *given)
        self._split = self._split or next((splits[0] for name in names if len(splits := named_splits(name)) == 1), "")
        if not self._split and self._columns.split not in schema.names:
            self.notes += default_note(config, path.stem)

    def rows(self, dataset: str) -> Iterator[Row]:
        """Give every row as an image with its captions, or the reason why not.

        Raises:
            DataError: if the file breaks off, or a row names a split that is not known.
        """
        splits = RowSplits(self._path, self._config.model_copy(update={"split": self._split or "train"}), "train")
        for number, row, cell in self._read():
            where = f"{self._where} row {number}"
            split = splits.of(row.get(self._columns.split))
            if not split:
                continue
            try:
                yield from self._record(dataset, split, number, row, cell)
            except BAD_ROW as error:
                texts = [row.get(name) for name in self._columns.captions]
                yield from refused_row(split, where, error, [text for text in texts if text is not None])
        splits.check()

    def _record(self, dataset: str, split: str, number: int, row: dict[str, Any], cell: Cell | None) -> Iterator[Row]:
        where = f"{self._where} row {number}"
        captions: list[CaptionRecord] = []
        by_rule: list[str] = []
        for name in self._columns.captions:
            value = row[name]
            texts, refused = caption_records(listed_texts(value) if isinstance(value, str) else value)
            captions += texts
            by_rule += [self._rules.of(name)] * len(texts)
            for why in refused:
                yield Drop(split, "", where, "caption", "bad-row", f"{name}: {why}")
        captions = with_sources(captions, row.get(self._columns.source))
        path = row.get("image.path") or ""
        label = self._label(row.get(self._columns.label))
        item = as_text(row.get(self._columns.item)) if self._columns.item else ""
        stem = re.sub(r"\.[A-Za-z]{1,5}$", "", path.rpartition("/")[2])
        numbered = f"{self._where.rpartition('.')[0]}-{number:07d}"
        key = keys.image_key(dataset, item or stem or numbered)
        role = ""
        source = path or where
        own = isinstance(row.get("key"), str) and _OURS.fullmatch(row["key"]) is not None
        if own:
            key = row["key"]
            captions = with_sources(_own_captions(key, captions, row), row.get("caption_sources"))
            source, role = as_text(row.get("source")) or source, as_text(row.get("role"))
        captions = with_sources(captions, by_rule)
        if cell is None:
            yield from refused_row(split, where, ValueError("the row holds no picture"), [one.text for one in captions])
            return
        by_range = self._path.suffix.lower() == ".arrow"
        yield ImageRecord(
            key,
            split,
            self._path,
            source,
            tuple(captions),
            label,
            role,
            offset=cell.offset,
            length=cell.length,
            other_key="" if item or own else keys.image_key(dataset, numbered),
            column="" if by_range else self._columns.image,
        )

    def _label(self, value: Any) -> str:
        names = self._columns.names
        if isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return as_text(value)

    def _read(self) -> Iterator[tuple[int, dict[str, Any], Cell | None]]:
        """Give each row's number, its values besides the picture, and where the picture lies.

        Of Parquet that is the row's number and an estimate of the bytes: pictures are not read to be planned.
        """
        number = 0
        columns = [*self._columns.all, *self._ours]
        try:
            if self._path.suffix.lower() == ".arrow":
                for batch, address, size in arrow_batches(self._path):
                    image = batch.column(self._columns.image)
                    cells = arrow_cells(image, address, size)
                    paths = _paths(image) if self._struct else [None] * len(cells)
                    rows = batch.select(list(dict.fromkeys(columns))).to_pylist()
                    for row, path, cell in zip(rows, paths, cells, strict=True):
                        yield number, {**row, "image.path": path}, cell
                        number += 1
                return
            with named_remote_errors(self._path), self._path.open("rb") as file:
                table = pq.ParquetFile(file)
                leaves = [f"{self._columns.image}.path"] if self._struct else []
                for group in range(table.num_row_groups):
                    length = _mean_bytes(table.metadata.row_group(group), self._columns.image)
                    for batch in table.iter_batches(_BATCH, row_groups=[group], columns=[*columns, *leaves]):
                        for row in batch.to_pylist():
                            image = row.pop(self._columns.image, None) if leaves else None
                            row["image.path"] = (image or {}).get("path")
                            yield number, row, Cell(number, length)
                            number += 1
        except ValueError as error:
            raise DataError(
                f"{self._path} cannot be read after row {number}: {error}. Save it as Parquet, or uncompressed.",
                path=self._path,
            ) from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self._path} cannot be read after row {number} ({error}). Restore it.", path=self._path
            ) from error


def _paths(image: pa.StructArray) -> list[str | None]:
    if image.type.get_field_index("path") < 0:
        return [None] * len(image)
    paths: list[str | None] = image.field("path").to_pylist()
    return paths


def _mean_bytes(group: Any, column: str) -> int:
    """Return the bytes that a picture has on average, by a row group's own sums."""
    for number in range(group.num_columns):
        if group.column(number).path_in_schema in (column, f"{column}.bytes"):
            return int(group.column(number).total_uncompressed_size // max(group.num_rows, 1))
    return 0


def _own_captions(key: str, captions: list[CaptionRecord], row: dict[str, Any]) -> list[CaptionRecord]:
    """Give captions of our own export their ids and positions again."""
    ids, names = row.get("caption_ids"), row.get("caption_keys")
    if isinstance(ids, list) and len(ids) == len(captions):
        captions = [one._replace(caption_id=str(name or "")) for one, name in zip(captions, ids, strict=True)]
    if isinstance(names, list) and len(names) == len(captions):
        places = [keys.split_caption_key(name) for name in names]
        if all(owner == key for owner, _ in places):
            captions = [one._replace(position=place) for one, (_, place) in zip(captions, places, strict=True)]
    return captions


def _schema(path: Path) -> pa.Schema:
    try:
        if path.suffix.lower() == ".parquet":
            with named_remote_errors(path), path.open("rb") as file:
                return pq.read_schema(file)
        if is_remote(path):
            raise DataError(f"{path}: Arrow files are mapped into memory. Copy it to this machine first.", path=path)
        with pa.memory_map(str(path)) as file:
            return (pa.ipc.open_file if file.read(6) == b"ARROW1" else _stream)(file).schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable table: {error}. Restore it.", path=path) from error


def _stream(file: pa.NativeFile) -> pa.RecordBatchReader:
    file.seek(0)
    return pa.ipc.open_stream(file)


def _columns(path: Path, schema: pa.Schema, config: ReadConfig) -> tuple[_Columns, tuple[str, ...]]:
    """Find the columns of a table, by the given names or by what they hold and are usually called.

    Raises:
        DataError: if there is no column of pictures or of captions, or several could be it.
    """
    names = schema.names
    pictures = [name for name in names if _holds_pictures(schema.field(name).type)]
    image = config.image_column if config.image_column in pictures else ""
    if not image and config.image_column == "image" and len(pictures) == 1:
        image = pictures[0]
    if not image:
        which = f"{', '.join(pictures)} hold pictures" if pictures else "no column holds pictures"
        raise DataError(
            f"{path}: {which}; a binary column or one of {{bytes, path}} is needed. Name it with --column image=NAME; "
            "for a table of paths use the layout table.",
            path=path,
        )
    captions = _caption_columns(path, schema, config)
    for option in ("split", "label", "id", "source"):
        name = getattr(config, f"{option}_column")
        if name != ReadConfig.model_fields[f"{option}_column"].default and name not in names:
            raise DataError(f"{path} has no column {name!r}. {nearest(name, names)}.", path=path)
    label = config.label_column if config.label_column in names else ""
    notes: tuple[str, ...] = ()
    if captions and captions != (config.caption_column,) and config.caption_column == "caption":
        notes = (f"Captions were taken from {', '.join(captions)}. --column caption=NAME,NAME names others.",)
    columns = _Columns(
        image,
        captions,
        config.split_column if config.split_column in names else "",
        label,
        config.id_column if config.id_column in names else "",
        config.source_column if config.source_column in names else "",
        _class_names(schema, label),
    )
    if not captions and not label:
        raise DataError(
            f"{path} has no column of captions that is called as usual, and no label; it has {', '.join(names)}. Name "
            "some with --column caption=NAME,NAME.",
            path=path,
        )
    return columns, notes


def _caption_columns(path: Path, schema: pa.Schema, config: ReadConfig) -> tuple[str, ...]:
    given = tuple(name for name in config.caption_column.split(",") if name)
    if all(name in schema.names for name in given):
        for name in given:
            if not _holds_texts(schema.field(name).type):
                raise DataError(f"{path}: column {name!r} is {schema.field(name).type}, not texts.", path=path)
        return given
    if given != ("caption",):
        missing = next(name for name in given if name not in schema.names)
        raise DataError(f"{path} has no column {missing!r}. {nearest(missing, schema.names)}.", path=path)
    return tuple(
        name
        for name in schema.names
        if _CAPTIONS.fullmatch(name) and not _NOT_CAPTIONS.fullmatch(name) and _holds_texts(schema.field(name).type)
    )


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_pictures(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_texts(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in ("text", "caption", "raw"))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Return the names of a label's classes, as the `datasets` library keeps them in a table's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return tuple(names) if all(isinstance(name, str) for name in names) else ()
    except (KeyError, TypeError, ValueError):
        return ()
