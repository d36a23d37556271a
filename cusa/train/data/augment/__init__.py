"""Pictures changed anew in every epoch, as a pure function of seed, epoch and row."""
