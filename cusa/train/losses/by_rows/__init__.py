"""Contrasts whose denominators depend on all cosines of a row: hardness weights, learned thresholds."""
