"""A table of your own: CSV, TSV, Parquet or JSONL with one row a caption or one row an image."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cusa.errors import DataError, nearest
from cusa.manifests import keys
from cusa.manifests.records import CaptionRecord, Drop, ImageRecord
from cusa.manifests.storage import store
from cusa.pipeline.config import ReadConfig
from cusa.pipeline.readers import separated
from cusa.pipeline.readers.captions import as_text, caption_records, listed_texts
from cusa.pipeline.readers.reading import BAD_ROW, Reading, Row, Rows, digests, inside, lines, other_key, text
from cusa.pipeline.readers.separated import Form
from cusa.pipeline.readers.sources import SourceRules, filled, with_sources
from cusa.pipeline.readers.splits import RowSplits, default_note

KINDS = (".csv", ".tsv", ".parquet", ".jsonl")
_GUESSES = {
    "image": ("image", "filepath", "file_path", "filename", "file_name", "image_path", "image_name", "image_file"),
    "caption": ("caption", "captions", "title", "comment", "sentence", "description", "text"),
    "split": ("split",),
    "label": ("label",),
    "id": ("id",),
    "source": ("caption_source",),
}
"""Names that a column may have where none was given, in lower case."""


def read(source: Path, images: Path, config: ReadConfig) -> Reading:
    """Read a CSV, TSV, Parquet or JSONL table with columns for image and caption, perhaps split, label, id and source.

    Rows of the same image are one image with several captions; a caption may also be a list (also one written as text).
    Of a CSV or TSV the encoding (by its byte order mark), the separator (`,`, `;`, tab, `|`) and whether quotes enclose
    fields are found out; a row with another number of fields than the header is a drop.

    Args:
        source: the table; its kind is its extension.
        images: the folder that the image column starts from.
        config: the columns' names, the data set's name, and the split where no column has it.

    Raises:
        DataError: if the kind is unknown, the table cannot be read, or it lacks the image or caption column; when its
            rows are read, if one names a split that is not known.
    """
    if source.suffix.lower() not in KINDS:
        raise DataError(
            f"{source} is of no known kind of table. {nearest(source.suffix, KINDS)}. Rename it, or convert it.",
            path=source,
        )
    form = separated.form_of(source, _names(config)) if source.suffix.lower() in (".csv", ".tsv") else None
    columns = list(form.columns) if form else column_names(source)
    config, notes = _named(source, columns, config)
    if source.suffix.lower() == ".parquet":
        _check_types(source, config)
    SourceRules(config.caption_sources).refuse_others((config.caption_column,), "columns of captions")
    dataset = config.dataset or source.stem
    if config.split_column not in columns:
        notes += default_note(config, source.stem)
    rows = Rows(lambda: _rows(source, images, dataset, config, form))
    return Reading(dataset, rows, digests(source.parent, [source]), notes=notes)


def _names(config: ReadConfig) -> tuple[str, ...]:
    given = (config.image_column, config.caption_column)
    return tuple(dict.fromkeys((*given, *_GUESSES["image"], *_GUESSES["caption"])))


def _named(source: Path, columns: list[str], config: ReadConfig) -> tuple[ReadConfig, tuple[str, ...]]:
    """Return the configuration with the table's own names of columns, and what was guessed in doing so.

    Raises:
        DataError: if a column that is needed, or was named, is missing, or two have its name.
    """
    guessed = {}
    for what, usual in _GUESSES.items():
        name = getattr(config, f"{what}_column")
        by_default = name == ReadConfig.model_fields[f"{what}_column"].default
        if name not in columns:
            alike = [column for column in columns if column.strip().lower() in usual] if by_default else []
            if len(alike) == 1:
                guessed[what] = alike[0]
            elif not by_default or what in ("image", "caption"):
                raise DataError(
                    f"{source} has no column {name!r}; name the one it has with --column {what}=NAME. "
                    f"{nearest(name, columns)}.",
                    path=source,
                )
        if columns.count(guessed.get(what, name)) > 1:
            raise DataError(
                f"{source} has several columns {guessed.get(what, name)!r}. Rename all but one of them.", path=source
            )
    if not guessed:
        return config, ()
    words = ", ".join(f"{what} from {column!r}" for what, column in guessed.items())
    note = f"{source.name} has other names of columns; taken were {words}. --column WHAT=NAME names others."
    return config.model_copy(update={f"{what}_column": column for what, column in guessed.items()}), (note,)


@dataclass
class _Image:
    split: str
    label: str
    item: str
    captions: list[CaptionRecord] = field(default_factory=list)


def _rows(source: Path, images: Path, dataset: str, config: ReadConfig, form: Form | None) -> Iterator[Row]:
    splits = RowSplits(source, config, source.stem)
    images_by_name: dict[str, _Image] = {}
    columns = [getattr(config, f"{what}_column") for what in _GUESSES]
    rules = SourceRules(config.caption_sources)
    for where, row in read_rows(source, columns, form):
        split = splits.of(row.get(config.split_column) if isinstance(row, Mapping) else None)
        if not split:
            continue  # the table is refused as a whole, once every unknown split is seen
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.why)
            name = text(row[config.image_column], config.image_column)
            inside(images, name)
            name = posixpath.normpath(name)
            label, item = (as_text(row.get(column)) for column in (config.label_column, config.id_column))
            image = _Image(split, label, item or name.removesuffix(Path(name).suffix))
            keys.image_key(dataset, image.item)
            value = row[config.caption_column]
            captions, refused = caption_records(listed_texts(value) if isinstance(value, str) else value)
            if value is None:
                refused = [f"{config.caption_column} is empty"]
            captions = with_sources(captions, row.get(config.source_column))
            captions = filled(captions, rules.of(config.caption_column))
        except BAD_ROW as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            yield Drop(split, "", where, "caption", "bad-row", f"{what}: {row!r:.200}")
            continue
        for why in refused:
            yield Drop(split, "", where, "caption", "bad-row", f"{why}: {row!r:.200}")
        first = images_by_name.setdefault(name, image)
        if (first.split, first.label, first.item) != (image.split, image.label, image.item):
            for caption in captions:
                detail = f"{name} had another split, label or id in an earlier row; {caption.text[:200]!r}"
                yield Drop(split, "", where, "caption", "bad-row", detail)
            continue
        first.captions += captions
    splits.check()
    for name, image in images_by_name.items():
        key = keys.image_key(dataset, image.item)
        by_name = image.item == name.removesuffix(Path(name).suffix)
        about = (key, image.split, inside(images, name), name, tuple(image.captions), image.label)
        yield ImageRecord(*about, other_key=other_key(dataset, name) if by_name else "")


def column_names(source: Path) -> list[str]:
    """Return the names of the columns of a Parquet or JSONL table."""
    if source.suffix.lower() == ".parquet":
        return [str(name) for name in _schema(source).names]
    rows = (row for _, row in read_rows(source, (), None) if isinstance(row, dict))
    return list(dict.fromkeys(name for row in islice(rows, 1000) for name in row))


def _schema(source: Path) -> pa.Schema:
    try:
        with source.open("rb") as file:
            return pq.read_schema(file)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist. Check the path.", path=source) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source} is no readable Parquet table: {error}. Restore it.", path=source) from error


def _check_types(source: Path, config: ReadConfig) -> None:
    """Refuse a Parquet table whose columns hold something else than paths and captions.

    Raises:
        DataError: naming the column and its type.
    """
    schema = _schema(source)
    image, caption = (schema.field(name).type for name in (config.image_column, config.caption_column))
    if pa.types.is_struct(image) or _is_binary(image):
        raise DataError(
            f"{source}: column {config.image_column!r} holds the pictures themselves ({image}), and paths are needed. "
            "Read it with `cusa shard hub`, or name another column with --column image=NAME.",
            path=source,
        )
    if _is_binary(caption):
        raise DataError(
            f"{source}: column {config.caption_column!r} is {caption}, and a text or a list of texts is needed. Cast "
            "it to a string, or name another column with --column caption=NAME.",
            path=source,
        )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


@dataclass(frozen=True)
class Unreadable:
    """A row that is none, and why."""

    why: str
    content: object

    def __repr__(self) -> str:
        return repr(self.content)


def read_rows(source: Path, columns: Sequence[str], form: Form | None) -> Iterator[tuple[str, Any]]:
    """Give each row with the words for where it stands; what is no row comes as it is, or with the reason.

    Args:
        source: the table.
        columns: those to read of a Parquet table; those it lacks are left out.
        form: of a CSV or TSV.
    """
    if form is not None:
        for number, fields in separated.read_rows(source, form):
            if len(fields) == len(form.columns):
                yield f"{source.name}:{number}", dict(zip(form.columns, fields, strict=True))
            else:
                why = (
                    f"{len(fields)} fields separated by {form.separator!r}, and the header names {len(form.columns)}; "
                    "text that holds the separator needs quotes around it"
                )
                yield f"{source.name}:{number}", Unreadable(why, fields)
    elif source.suffix.lower() == ".parquet":
        yield from _read_parquet(source, columns)
    else:
        for number, line in lines(source):
            if line.strip():
                try:
                    yield f"{source.name}:{number}", store.parse_json(line)
                except DataError as error:
                    yield f"{source.name}:{number}", Unreadable(str(error), line)


def _read_parquet(source: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with source.open("rb") as file:
            table = pq.ParquetFile(file)
            columns = [name for name in dict.fromkeys(wanted) if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    yield f"{source.name} row {number}", row
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read after row {number} ({error}). Restore it.", path=source) from error
