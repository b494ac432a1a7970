"""What every part stands on: errors, safe files, journals, clocks, retry, settings, events.

This layer uses the standard library and msgspec only. It refuses to know what a sample, a vehicle or a model is, to open
a network connection, and to read the environment except for secrets that the caller asked for.
"""
