"""The report's sections on the teachers."""
