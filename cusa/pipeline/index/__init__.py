"""Indexing: nearest neighbours by a teacher or a student, and search."""

from cusa.pipeline.index.stage import run

__all__ = ["run"]
