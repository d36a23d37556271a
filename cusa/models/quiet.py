"""Keeping a library's own progress off the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*, reports: bool = True) -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal, which is the command line's to write to.

    Args:
        reports: let its warnings through, among them the report on weights that are missing or left over.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if not reports:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
