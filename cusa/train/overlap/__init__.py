"""What goes on while the device computes: batches, gradients and checkpoints on their way, losses not yet read."""
