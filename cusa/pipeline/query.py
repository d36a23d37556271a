"""SQL over a work folder and its runs: DuckDB, a typed view for each table, nothing written."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cusa.errors import ConfigError, CusaError, DataError, nearest
from cusa.pipeline.answer import FORMATS, Answer, render
from cusa.pipeline.views import BROKEN, MACROS, View, identifier, literal, work_views

if TYPE_CHECKING:
    import duckdb

__all__ = ["FORMATS", "Answer", "Database", "connect", "find_runs", "render"]

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")


class Database:
    """An open work folder; close it, or use it in `with`.

    Attributes:
        views: what there is to query, in a fixed order.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", views: list[View], *, read_only: bool) -> None:
        self.views = views
        self._connection = connection
        self._read_only = read_only

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def run(self, query: str) -> Answer:
        """Answer one SQL statement.

        Args:
            query: a `SELECT` in DuckDB's dialect, or `DESCRIBE`, `SUMMARIZE`, `SHOW TABLES`, `EXPLAIN`, `PIVOT`.

        Raises:
            ConfigError: if the statement is wrong (the message points at the place) or would write something.
            DataError: if a table that it reads is broken.
        """
        import duckdb

        try:
            statements = self._connection.extract_statements(query)
            if len(statements) != 1:
                raise ConfigError(f"One statement at a time, please; this has {len(statements)}.", query=query)
            if self._read_only:
                self._refuse_writing(statements[0].query)
            result = self._connection.execute(statements[0])
            columns = [name for name, *_ in result.description or ()]
            rows = result.fetchall() if columns else []
        except duckdb.Error as error:
            raise self._explained(error, query) from error
        return Answer(columns, rows, self._notes(query))

    def overview(self) -> Answer:
        """Return what there is to query: each view, what a row is, its columns."""
        rows = []
        for view in self.views:
            described = self.run(f"DESCRIBE SELECT * FROM {identifier(view.name)}").rows
            columns = ", ".join(name for name, *_ in described)
            rows.append((view.name, f"empty: run {view.missing}" if view.missing else view.what, columns))
        return Answer(["view", "a row is", "columns"], rows)

    def _refuse_writing(self, query: str) -> None:
        """Refuse what is no question. DuckDB's own lock still lets COPY overwrite the very files the views read."""
        import duckdb

        statement = self._connection.extract_statements(query)[0]
        kind, inner = statement.type, query
        if kind == duckdb.StatementType.EXPLAIN:
            inner = _EXPLAIN.sub("", query, count=1)  # EXPLAIN ANALYZE runs what it explains
            asked = self._connection.extract_statements(inner)
            kind = asked[0].type if asked else kind
        if kind == duckdb.StatementType.MULTI:  # a PIVOT, or something around one
            words = [inner[at:] for at, token in duckdb.tokenize(inner) if token != duckdb.token_type.comment]
            if words and re.match(r"(pivot|select|from|with|\()", words[0], re.IGNORECASE):
                return
        if kind != duckdb.StatementType.SELECT:
            raise ConfigError(
                f"This would change something ({kind.name}), and SQL here only reads: SELECT, DESCRIBE, SUMMARIZE, "
                "SHOW TABLES, EXPLAIN, PIVOT. To write a file, send the answer of --format csv or json there.",
                query=query,
            )

    def _explained(self, error: "duckdb.Error", query: str) -> CusaError:
        """Turn DuckDB's complaint into ours: it keeps the place it points at."""
        import duckdb

        message = str(error)
        if BROKEN in message:
            return DataError(message.partition(BROKEN)[2], query=query)
        if isinstance(error, duckdb.PermissionException):
            return ConfigError(f"SQL here reads nothing but the tables of the work folder. {message}", query=query)
        if isinstance(error, duckdb.IOException):
            return DataError(f"A table cannot be read to its end; make it again with --force. {message}", query=query)
        names = [view.name for view in self.views]
        if unknown := _UNKNOWN_TABLE.search(message):
            place = message.partition("\n\n")[2]
            return ConfigError(f"There is no view {unknown[1]!r}. {nearest(unknown[1], names)}\n{place}", query=query)
        return ConfigError(f"{message}\n(`DESCRIBE view` shows its columns; views: {', '.join(names)})", query=query)

    def _notes(self, query: str) -> tuple[str, ...]:
        named = [view for view in self.views if re.search(rf"\b{re.escape(view.name)}\b", query, re.IGNORECASE)]
        return tuple(f"{view.name} is empty: `{view.missing}` fills it." for view in named if view.missing)


def connect(work: Path, *, runs: Iterable[Path] | None = None, read_only: bool = True) -> Database:
    """Open a work folder for SQL.

    Views: samples, captions, drops, shards, truth, image_neighbours, text_neighbours, candidates, metrics, per_query,
    ledgers, and `teacher_<name>` for each teacher with its embeddings as `FLOAT[N]`. A view whose table is missing is
    there and empty. `cosine(a, b)` compares two embeddings.

    Args:
        work: the work folder.
        runs: run folders; those in `runs` beside the work folder if None.
        read_only: refuse every statement that writes, and let DuckDB open no file but those tables.

    Raises:
        DataError: if the folder holds no split.
    """
    import duckdb

    views = work_views(work, find_runs(work.resolve().parent / "runs") if runs is None else runs)
    scratch = Path(tempfile.gettempdir()) / "cusa-sql"  # large answers are sorted there; not in the user's folder
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "temp_directory": str(scratch),
        }
    )
    try:
        for macro in MACROS:
            connection.execute(macro)
        for view in views:
            connection.execute(f"CREATE VIEW {identifier(view.name)} AS {view.sql}")
        if read_only:
            files = sorted({str(path) for view in views for path in view.files})
            connection.execute(f"SET allowed_paths = [{', '.join(map(literal, files))}]::VARCHAR[]")
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise DataError(f"The tables of {work} cannot be opened: {error}", path=work) from error
    return Database(connection, views, read_only=read_only)


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder: those with metrics or an evaluation."""
    if not folder.is_dir():
        return []
    marks = ("metrics.parquet", "recipe.json", "eval/per_query.parquet")
    return sorted(run for run in folder.iterdir() if any((run / mark).is_file() for mark in marks))
