"""Tensors in, unit vectors out: the students that learn and the teachers that stay as they are."""
