"""The review: a page on this machine that asks people about one candidate after the other."""
