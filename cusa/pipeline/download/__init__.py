"""Downloading: raw files by a manifest, verified and locked."""

from cusa.pipeline.download.stage import run

__all__ = ["run"]
