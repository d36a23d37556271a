"""Bridges to other libraries: trainers, pipelines, viewers, annotation tools. None is imported before it is used."""

VIEWS = ("atlas", "fiftyone", "label-studio")
"""Exports that show a work folder in another tool."""
