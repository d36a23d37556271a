"""Texts that a task asks a model beyond the split's own captions: names of classes in prompts, edited captions."""
