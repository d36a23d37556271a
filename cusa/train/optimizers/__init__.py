"""Optimisers: which there are, which parameters decay, and how fast each learns."""
