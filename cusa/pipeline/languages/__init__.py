"""In which language each caption is, as a table beside the captions."""

from cusa.pipeline.languages.stage import run

__all__ = ["run"]
