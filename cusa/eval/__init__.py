"""Rankings, metrics and the report: what a run is worth, by which protocol."""
