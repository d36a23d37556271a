"""Several data sets in one training: where they lie, what they are validated on."""
