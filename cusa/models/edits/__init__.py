"""Minimal edits of captions by rule, which probes and evaluations ask models about."""
