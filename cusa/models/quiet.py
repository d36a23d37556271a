"""Keeping a library's own progress off the terminal."""

import logging as standard
from collections.abc import Iterator
from contextlib import contextmanager

_ON_DEFAULTS = "transformers.configuration_utils"
"""Logger that warns of the default values of some configurations (SigLIP 2's), whatever model is read."""


@contextmanager
def quiet(*, reports: bool = True) -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal, which is the command line's to write to.

    Args:
        reports: let its warnings through, among them the report on weights that are missing or left over.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    on_defaults = standard.getLogger(_ON_DEFAULTS)
    before = on_defaults.level
    logging.disable_progress_bar()
    on_defaults.setLevel(standard.ERROR)
    if not reports:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        on_defaults.setLevel(before)
        if shown:
            logging.enable_progress_bar()
