"""Extraction: the embeddings of frozen teachers into Parquet."""

from cusa.pipeline.extract.stage import run

__all__ = ["run"]
