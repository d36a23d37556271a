"""From a work folder to files that other tools read, with a card of what is in them and what is wrong with it."""

from cusa.pipeline.publish.stage import TARGETS, run

__all__ = ["TARGETS", "run"]
