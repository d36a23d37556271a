"""The method on real photographs, with real models: what `docs/findings.md` says of them."""
