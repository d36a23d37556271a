"""What things on disk look like, how to read and write them, nothing else."""
