"""The report of evaluated runs, as HTML and Markdown."""

from cusa.eval.report.stage import run

__all__ = ["run"]
