"""The students: models that learn."""
