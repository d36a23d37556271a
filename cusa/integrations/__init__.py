"""Bridges to other libraries: trainers, pipelines, viewers, annotation tools. None is imported before it is used."""
