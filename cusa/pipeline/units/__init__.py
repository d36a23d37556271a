"""Stages in units: parts of their work that any process can do, on any machine, and that are merged at the end."""
