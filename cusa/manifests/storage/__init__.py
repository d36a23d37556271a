"""Storage: whole files, local or remote, and reading them back."""
