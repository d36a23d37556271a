"""SQL over a work folder with DuckDB."""
