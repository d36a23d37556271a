"""A file that is written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor


class Writer:
    """Runs one piece of work at a time in a thread of its own."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start the work; what was started before has to be waited for first."""
        assert self._work is None
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="cusa-writer")
        self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for the work that was started, if any; raise what it raised."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """Let the work that was started come to its end, whatever it is."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._thread = None


def snapshot(state: Any, _copies: dict[Any, Tensor] | None = None) -> Any:
    """Return plain values and tensors as they are now, in the host's memory: what is written must not change.

    What is one tensor under two names stays one.
    """
    copies = {} if _copies is None else _copies
    if isinstance(state, Tensor):
        place = (state.device, state.data_ptr(), state.dtype, state.shape, state.stride())
        if not state.numel() or place not in copies:
            copies[place] = state.detach().to("cpu", copy=True)
        return copies[place]
    if isinstance(state, dict):
        return {name: snapshot(value, copies) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value, copies) for value in state)
    assert state is None or isinstance(state, bool | int | float | str), type(state)
    return state
