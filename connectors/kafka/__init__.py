"""Kafka: ports, client options, sink, bounded source, tail, administration and access rights, with fakes."""
