"""The daemon on a vehicle: it runs the model, keeps the few samples worth learning from, and delivers them.

Two processes meet only in the vehicle's state folder: `perceive` (frame to spool) and `deliver` (spool to
broker, telemetry, model downloads), under one supervisor. This layer refuses to load anything that a
vehicle does not install (no beam, torch, dvc, pandas, polars or deltalake), to listen on anything but
loopback, and to drop a frame without counting why.
"""

AGENT_VERSION = "0.1.0"
"""What telemetry reports as `agent_version`; equals the distribution's version (a test holds this)."""
