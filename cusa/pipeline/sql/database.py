"""SQL over a work folder and its runs: DuckDB, a typed view for each table, nothing written."""

import contextlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cusa.errors import ConfigError, CusaError, DataError, nearest
from cusa.manifests.events import OnEvent, ignore
from cusa.manifests.judgements import own_pairs, verdicts
from cusa.manifests.samples import splits
from cusa.manifests.storage import store
from cusa.pipeline.result_table import FORMATS, QueryResult, render
from cusa.pipeline.sql.views import BROKEN, MACROS, VIEW_MACROS, View, identifier, literal, work_views

if TYPE_CHECKING:
    import duckdb

__all__ = ["FORMATS", "QueryResult", "Database", "connect", "find_runs", "render"]

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_GRACE = 1.0  # seconds in which an interrupted statement should have ended
_UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")


_Rows = tuple[list[str], list[tuple[Any, ...]]]
_Result = TypeVar("_Result")


class _Task(Generic[_Result]):
    """A function that runs in a thread, which the process does not wait for when it ends."""

    def __init__(self, work: Callable[[], _Result]) -> None:
        self._future: Future[_Result] = Future()
        self._work = work
        threading.Thread(target=self._run, daemon=True, name="cusa-sql").start()

    def ended(self, seconds: float) -> bool:
        """Return whether it ends within some seconds."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> _Result:
        """Return what the function returned, or raise what it raised."""
        return self._future.result()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except BaseException as error:
            self._future.set_exception(error)


class Database:
    """An open work folder; close it, or use it in `with`.

    Attributes:
        views: what there is to query, in a fixed order.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", views: list[View], *, read_only: bool) -> None:
        self.views = views
        self._root = connection  # runs nothing itself, so that it can always give another connection
        self._connection = connection.cursor()
        self._abandoned = False
        self._read_only = read_only

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; one that still runs a statement whose time was over ends with the process."""
        self._connection.close()
        if not self._abandoned:
            self._root.close()

    def run(self, query: str, *, limit: float = 0) -> QueryResult:
        """Run one SQL statement.

        Args:
            query: a `SELECT` in DuckDB's dialect, or `DESCRIBE`, `SUMMARIZE`, `SHOW TABLES`, `EXPLAIN`, `PIVOT`.
            limit: seconds after which it is given up; 0 = none.

        Raises:
            ConfigError: if the statement is wrong (the message points at the place), would write something, or took
                longer than the limit.
            DataError: if a table that it reads is broken.
        """

        def answer(connection: "duckdb.DuckDBPyConnection", statement: "duckdb.Statement") -> _Rows:
            result = connection.execute(statement)
            columns = [name for name, *_ in result.description or ()]
            return columns, result.fetchall() if columns else []

        columns, rows = self._within(limit, query, answer)
        return QueryResult(columns, rows, self._notes(query))

    def save(self, query: str, path: Path, *, limit: float = 0) -> int:
        """Write the answer to one statement as a Parquet file, whole, its types kept; return the number of rows.

        Args:
            query: as in `run`.
            path: the file.
            limit: as in `run`.
        """
        given_up = threading.Event()

        def write(connection: "duckdb.DuckDBPyConnection", statement: "duckdb.Statement") -> int:
            rows = 0
            batches: Any = connection.sql(statement.query).to_arrow_reader(1 << 16)
            with store.table_writer(path, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    rows += batch.num_rows
                if given_up.is_set():  # nobody waits for the file any more
                    raise TimeoutError
            return rows

        try:
            return self._within(limit, query, write)
        except BaseException:
            given_up.set()
            raise

    def _within(
        self, limit: float, query: str, work: "Callable[[duckdb.DuckDBPyConnection, duckdb.Statement], _Result]"
    ) -> "_Result":
        """Do something with the one statement of a query, for a limited time.

        DuckDB looks for an interruption between blocks of rows. A function that takes long for a single row outlives
        it: such a statement is left to a thread of its own, which ends with the process, and later statements get
        another connection.

        Args:
            limit: seconds; 0 = as many as it takes.
            query: what the user wrote.
            work: called with the connection and the statement.
        """
        import duckdb

        connection = self._connection
        try:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise ConfigError(f"One statement at a time, please; this has {len(statements)}.", query=query)
            if self._read_only:
                self._refuse_writing(statements[0].query)
            if not limit:
                return work(connection, statements[0])
            task = _Task(lambda: work(connection, statements[0]))
            try:
                if task.ended(limit) or self._stop(task):
                    return task.result()
            except KeyboardInterrupt:
                self._stop(task)
                raise
            raise duckdb.InterruptException("it goes on in a function")
        except duckdb.InterruptException as error:
            raise ConfigError(
                f"The query took longer than {limit:g} seconds. Ask for less, or allow more with --timeout.",
                query=query,
            ) from error
        except duckdb.Error as error:
            raise self._explained(error, query) from error

    def _stop(self, task: "_Task[Any]") -> bool:
        """Interrupt a statement; return whether it ended, else leave it its connection."""
        self._connection.interrupt()
        if task.ended(_GRACE):
            return True
        self._connection, self._abandoned = self._root.cursor(), True
        return False

    def refuse_own_file(self, path: Path, option: str) -> None:
        """Refuse to write over a file that the views read.

        Args:
            path: the file to be written.
            option: that named it.

        Raises:
            ConfigError: if it is one of them, links followed.
        """
        there = path.resolve()
        for view in self.views:
            if any(there == file.resolve() for file in view.files):
                raise ConfigError(
                    f"{option} {path} is what the view {view.name} reads, and would be overwritten. Give another file.",
                    option=option,
                    value=path,
                )

    def export(self, path: Path, *, on_event: OnEvent = ignore) -> int:
        """Copy every view into a DuckDB file of its own, for tools that read no folder; return the number of tables.

        The tables hold what the views hold now, embeddings included, and know nothing of this work folder.

        Args:
            path: the file to write, whole; an older one is replaced.
            on_event: called with every table.

        Raises:
            DataError: if a table is broken, or the file cannot be written.
        """
        import duckdb

        store.sweep(path.parent)  # what a killed export left there
        with store.whole_file(path) as temporary:
            temporary.unlink()  # DuckDB makes it, and refuses an empty one
            log = temporary.with_name(f"{temporary.name}.wal")
            try:
                with duckdb.connect(str(temporary)) as out:
                    for number, view in enumerate(self.views, 1):
                        rows: Any = self._connection.sql(f"SELECT * FROM {identifier(view.name)}")
                        out.register("given", rows.to_arrow_reader(1 << 16))
                        out.execute(f"CREATE TABLE {identifier(view.name)} AS SELECT * FROM given")
                        out.unregister("given")
                        on_event(f"export {path.name}", number, len(self.views))
                    for macro in (*MACROS, *VIEW_MACROS):
                        out.execute(macro)
            except duckdb.Error as error:
                message = str(error)
                if BROKEN in message:
                    raise self._explained(error, "export") from error
                raise DataError(
                    f"{path} cannot be written: {message} Nothing unfinished was left there. Free some space or choose "
                    "another file, and run the same command again.",
                    path=path,
                ) from error
            finally:
                log.unlink(missing_ok=True)  # what DuckDB had not yet written into its file
        return len(self.views)

    def overview(self) -> QueryResult:
        """Return what there is to query: each view, what a row is, its columns."""
        rows = []
        for view in self.views:
            described = self.run(f"DESCRIBE SELECT * FROM {identifier(view.name)}").rows
            columns = ", ".join(name for name, *_ in described)
            rows.append((view.name, f"empty: run {view.missing}" if view.missing else view.what, columns))
        return QueryResult(["view", "a row is", "columns"], rows)

    def _refuse_writing(self, query: str) -> None:
        """Refuse statements that write. DuckDB's own lock still lets COPY overwrite the very files the views read."""
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
        """Turn an error of DuckDB into one of ours; it keeps the place in the query that it points at."""
        import duckdb

        message = str(error)
        if BROKEN in message:
            return DataError(message.partition(BROKEN)[2], query=query)
        if isinstance(error, duckdb.PermissionException):
            return ConfigError(f"SQL here reads nothing but the tables of the work folder. {message}", query=query)
        if isinstance(error, duckdb.IOException) and "could not write" in message.lower():
            return DataError(
                f"The query needs more space than there is for what does not fit into memory: {message} Free some "
                "space, set TMPDIR to a larger disk, or ask for less.",
                query=query,
            )
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


def connect(
    work: Path,
    *,
    runs: Iterable[Path] | None = None,
    raw: Iterable[Path] | None = None,
    read_only: bool = True,
) -> Database:
    """Open a work folder for SQL.

    Views: samples, captions, sources, drops, shards, truth, image_neighbours, text_neighbours, candidates, verdicts,
    duplicates, leaks, runs, metrics, per_query, ledgers, and `teacher_<name>` for each teacher with its embeddings as
    `FLOAT[N]`. A view whose table is missing is there and empty. `cosine(a, b)` compares two embeddings, `picture(key)`
    says where a picture lies, `FROM pair(image_key, caption_key)` gives what is known of a pair.

    Args:
        work: the work folder.
        runs: run folders; those in `runs` beside the work folder and beside its parent if None.
        raw: folders that `cusa download` filled; those in and beside the work folder, and in `raw` beside its parent,
            if None.
        read_only: refuse every statement that writes, and let DuckDB open no file but those tables.

    Raises:
        DataError: if the folder holds no split.
    """
    import duckdb

    beside = work.resolve().parent
    for folder in (work / name / place for name in splits(work) for place in (verdicts.FOLDER, own_pairs.FOLDER)):
        with contextlib.suppress(CusaError):  # a folder that cannot be written shows what it showed before
            verdicts.publish(folder)
    views = work_views(work, _runs_near(beside) if runs is None else runs, find_raw(beside) if raw is None else raw)
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
        for macro in VIEW_MACROS:
            connection.execute(macro)
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


def _runs_near(beside: Path) -> list[Path]:
    """Return the run folders in `runs` in `beside` and beside it; of two of one name the nearer."""
    runs = [run for place in (beside.parent, beside) for run in find_runs(place / "runs")]
    return list({run.name: run for run in runs}.values())


def find_raw(beside: Path) -> list[Path]:
    """Return the folders with the sources of a download: in `beside` and in `raw` beside it or its parent."""
    places = [beside, beside / "raw", beside.parent / "raw"]
    return sorted({file.parent for place in places for file in place.glob("*/sources.parquet")})
