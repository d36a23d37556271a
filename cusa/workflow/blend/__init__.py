"""Models between a base and the run that was fine-tuned from it: measured, drawn, and one of them exported."""

from cusa.workflow.blend.request import BlendRequest
from cusa.workflow.blend.stage import Blended, run

__all__ = ["BlendRequest", "Blended", "run"]
