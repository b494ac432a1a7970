"""The demo: the real loop on one machine, on real images, with faults on purpose.

It wires the commands that a user would type (see docs/tutorial.md); it holds no logic of the product itself.
"""
