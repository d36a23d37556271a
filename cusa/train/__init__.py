"""The streaming training stage: order, batches, losses, checkpoints, loop."""
