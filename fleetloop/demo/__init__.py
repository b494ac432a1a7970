"""The demo: the real loop on one machine, on real images, with injected faults.

It runs the commands that a user would type (see docs/tutorial.md) and has no product logic of its own.
"""
