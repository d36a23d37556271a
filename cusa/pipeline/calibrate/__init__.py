"""Calibration: from a pair's features to the probability that people call it a match."""

from cusa.pipeline.calibrate.stage import run

__all__ = ["run"]
