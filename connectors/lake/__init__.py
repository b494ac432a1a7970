"""The lake: Delta tables, their schemas, version locks, file pruning and retention."""
