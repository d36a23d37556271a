"""Scores under every true match where people judged only some pairs: what to ask, and what the answers say."""

from cusa.eval.judged.stage import Rivals, draw, run

__all__ = ["Rivals", "draw", "run"]
