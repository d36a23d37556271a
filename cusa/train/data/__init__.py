"""Training data: the order of pairs, their rows, and the stream of batches."""
