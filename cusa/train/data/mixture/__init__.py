"""Several data sets in one training: the order of their pairs, and their rows as those of one."""
