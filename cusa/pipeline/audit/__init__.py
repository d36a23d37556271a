"""The audit: candidate false negatives, what is missing, and the pages that show it."""

from cusa.pipeline.audit.stage import read_summary, run

__all__ = ["read_summary", "run"]
