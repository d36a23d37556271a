"""Candidate pairs: which pairs to look at, with what features, and what people said of them."""
