"""The command line and the demo: the only place that wires the applications together. Nothing imports it."""

__version__ = "0.1.0"
