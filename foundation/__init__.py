"""Shared building blocks: errors, atomic files, journals, clocks, retry, documents, settings and event logs.

This layer uses the standard library and msgspec only. It knows nothing of samples, vehicles or models, opens no network
connection, and reads the environment only for secrets that the caller asked for.
"""
