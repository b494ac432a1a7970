"""The lake: Delta tables, their schemas, locks, pruned look-ups and retention."""
