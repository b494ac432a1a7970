"""Adapters to the outside world behind small ports: Kafka, the lake, blob stores, sensors, label desks.

This layer makes no decisions: it does not judge a record, select a sample or start a model. It moves bytes, reports
exactly what became of them, and translates every error of a client library into one of `foundation.errors`. Importing
the package loads no client library; each module loads its own.
"""
