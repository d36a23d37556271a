"""From raw files to shards, teacher tables, neighbours and candidates: one file a verb."""
