"""The blob store for payloads that are too large for a Kafka record."""
