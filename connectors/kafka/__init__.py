"""Kafka: ports, client options, sink, bounded source, tail, administration and access control lists, with fakes."""
