"""Scenes: a drawn data set in which every match is known."""

from cusa.pipeline.scenes.stage import load_truth, run

__all__ = ["load_truth", "run"]
