"""The evaluation tasks: what each asks and how it is computed."""
