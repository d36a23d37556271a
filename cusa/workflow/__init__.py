"""What needs several rooms at once: training with validation, evaluation on any data, the demo, a whole recipe."""
