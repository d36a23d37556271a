"""The two-tower student and the encoders that it is made of: one reads images, one reads texts, each its own way."""
