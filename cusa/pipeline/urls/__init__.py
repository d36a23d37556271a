"""A table of URLs and captions: its pictures fetched into tars, every row kept or dropped with its reason."""

from cusa.pipeline.urls.stage import run

__all__ = ["run"]
