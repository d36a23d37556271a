"""One run of a stage: whether it is due, the lock it holds while it works, and the ledger it ends with."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cusa.manifests import ledger, lock
from cusa.manifests.ledger import Clock, Ledger
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import refuse_undecodable


@dataclass(frozen=True)
class Outcome:
    """What a stage returns: what it made, or that nothing had to be made."""

    stage: str
    out: Path
    fresh: bool
    """True if work was done, False if the output was up to date."""
    why: str
    """Why work was done: `never finished`, `images changed`...; empty if up to date."""
    counts: Mapping[str, int | float]
    seconds: float
    notes: tuple[str, ...] = field(default=())
    """Full sentences a person should read."""


class NotCurrentError(Exception):
    """What a stage raises instead of working, within `asking`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


_ASKING: ContextVar[bool] = ContextVar("asking", default=False)


@contextmanager
def asking() -> Iterator[None]:
    """Within it no stage works, with `force` neither: it returns if it is up to date, else raises NotCurrentError.

    So `cusa plan` learns from each stage itself what it would do, before anything is written.
    """
    token = _ASKING.set(True)
    try:
        yield
    finally:
        _ASKING.reset(token)


class StageRun:
    """One run of a stage: a helper of the function that is the stage.

    Args:
        name: the command's name.
        ledger_path: the ledger's file.
        out: what the outcome names; the ledger's folder if None.
        inputs: what the stage reads: name -> digest of its content.
        parameters: what it was asked to do.
        force: work even if nothing changed.
        reason: why it must work, where the stage knows itself; empty if it knows that nothing is due. None asks the
            ledger.
        clock: started earlier, where finding out what the inputs are takes long.

    Raises:
        ConfigError: if the folder's name is not UTF-8.
        NotCurrentError: if the stage is due, within `asking`.

    Attributes:
        why: why the stage must work, in a few words; empty if it is up to date.
        before: the ledger of the last time; None if it never finished.

    Example:
        stage = StageRun("index", folder / "ledger.json", inputs=inputs, parameters=parameters, force=force)
        if stage.up_to_date:
            return stage.reuse()
        with stage.begin():
            ...
            return stage.finish(outputs=files, counts=counts)
    """

    def __init__(
        self,
        name: str,
        ledger_path: Path,
        *,
        out: Path | None = None,
        inputs: Mapping[str, str],
        parameters: Mapping[str, Any],
        force: bool = False,
        reason: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        refuse_undecodable(ledger_path)
        self.name = name
        self.ledger_path = ledger_path
        self.out = out or ledger_path.parent
        self.inputs = inputs
        self.parameters = parameters
        self._clock = clock or Clock()
        lock.wait_until_free(ledger_path.parent / store.LOCK)  # another process may be making just this
        self.before = ledger.read(ledger_path)
        if force:
            reason = "--force"
        if reason is None:
            folder = ledger_path.parent
            reason = ledger.why_not_current(self.before, folder, inputs=inputs, parameters=parameters) or ""
        self.why = reason
        if self.why and _ASKING.get():
            raise NotCurrentError(self.why)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing has to be done."""
        return not self.why

    @property
    def asked(self) -> bool:
        """Whether this is a question, within `asking`: then nothing is written."""
        return _ASKING.get()

    @property
    def seconds(self) -> float:
        """How long this run has taken so far."""
        return self._clock.seconds

    def reuse(self, *, notes: tuple[str, ...] = ()) -> Outcome:
        """Return the outcome of the last time, as one that is up to date."""
        assert self.before is not None
        return Outcome(self.name, self.out, False, "", self.before.counts, 0.0, notes)

    @contextmanager
    def begin(
        self, *, lock_path: Path | None = None, unless_held: Iterable[Path] = (), keep: Collection[Path] = ()
    ) -> Iterator[None]:
        """Take the folder for this writer alone, withdraw the ledger, and remove what killed writers left unfinished.

        Until `finish`, what lies in the folder counts as unfinished.

        Args:
            lock_path: the lock's file; `store.LOCK` in the ledger's folder if None.
            unless_held: further locks that nobody else may hold.
            keep: unfinished files that this run goes on from.

        Raises:
            BusyError: if another process writes there.
            DataError: if the folder cannot be written.
        """
        folder = self.ledger_path.parent
        with lock.holding(lock_path or folder / store.LOCK, unless_held=unless_held):
            ledger.withdraw(self.ledger_path)
            store.sweep(folder, keep=keep)
            yield

    def finish(
        self,
        *,
        outputs: Iterable[Path],
        counts: Mapping[str, int | float],
        notes: tuple[str, ...] = (),
        digests: Mapping[str, str] | None = None,
        inputs: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Write the ledger, the last file of a stage, and return the outcome.

        Args:
            outputs: the files that were written.
            counts: what a reader wants to know: rows kept, rows dropped...
            notes: full sentences a person should read.
            digests: SHA-256 of outputs where they are known already, by their names in the ledger.
            inputs: where they are known late, in place of the constructor's.
            parameters: likewise.
        """
        written: Ledger = self._clock.finish(
            self.ledger_path,
            stage=self.name,
            inputs=self.inputs if inputs is None else inputs,
            parameters=self.parameters if parameters is None else parameters,
            outputs=sorted(outputs),
            counts=counts,
            digests=digests,
        )
        return Outcome(self.name, self.out, True, self.why, written.counts, written.seconds, notes)
