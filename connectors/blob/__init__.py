"""The blob store: payloads that are too large for a record, verified by digest."""
