"""Sharding: images and captions into WebDataset tars and tables."""

from cusa.pipeline.shard.stage import run

__all__ = ["run"]
