"""Signs models and plans, and lets them out in waves of exact size: the only way down to a vehicle.

This layer refuses to publish a release whose gate did not pass (unless a named person overrides it, which
the signed document then says for ever), to open a wave while the one before it is not known to be healthy,
and to take silence for health. It never talks to a vehicle: what it says is signed files that any static
server can hold, and what it hears is signed telemetry.
"""
