"""Probing: what a text teacher cannot tell apart, from minimal edits of the data's own captions."""

from cusa.pipeline.probe.stage import run

__all__ = ["run"]
