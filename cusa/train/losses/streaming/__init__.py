"""The losses by tiles: the same numbers without any B x B matrix."""
