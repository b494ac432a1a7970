"""Sign models and rollout plans, and roll them out in waves of exact size: the only path to a vehicle.

This layer never publishes a release whose gate did not pass (unless a named person overrides it, which the signed
document then records), never opens a wave before the previous one is known to be healthy, and never treats a missing
report as healthy. It does not connect to vehicles: it publishes signed files on a static server and reads signed
telemetry.
"""
