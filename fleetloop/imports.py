"""Explain a failed import to the user: an extra that is not installed, or a package that hides FleetLoop's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGES = frozenset(
    {
        "schemas", "foundation", "modelkit", "connectors", "devservers", "workspace", "edge_agent", "pipelines",
        "training", "rollout", "services", "fleetloop",
    }
)  # fmt: skip
"""The top-level packages of FleetLoop."""
EXTRA_OF = {
    **dict.fromkeys(("kafka", "onnx", "onnxruntime", "PIL", "tuf", "securesystemslib", "crc32c"), "agent"),
    "pyarrow": "replay",
    **dict.fromkeys(
        (
            "apache_beam", "deltalake", "dvc", "fsspec", "great_expectations", "jinja2", "matplotlib", "polars",
            "yaml",
        ),
        "cloud",
    ),
    **dict.fromkeys(("torch", "onnxscript"), "train"),
    "calfkit": "broker",
}  # fmt: skip
"""Module -> the extra of FleetLoop that installs it."""


def explain(error: ImportError) -> str:
    """Return one line: what is missing or hidden and what to do about it; "" for an unknown cause."""
    top = (error.name or "").split(".", 1)[0]
    if top in EXTRA_OF:
        return (
            f"{top} is not installed here; this command needs: pip install 'fleetloop[{EXTRA_OF[top]}]'"
            " (`fleetloop doctor` shows all that is missing)"
        )
    if top not in PACKAGES:
        return ""
    root, spec = Path(__file__).resolve().parents[1], importlib.util.find_spec(top)
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is not None and not origin.resolve().is_relative_to(root / top):
        return f"FleetLoop's package {top} is hidden by {origin}: take that folder out of PYTHONPATH, or rename the module"
    others = sorted(set(importlib.metadata.packages_distributions().get(top, ())) - {"fleetloop"})
    if others:
        return (
            f"the package {', '.join(others)} has a top-level package {top} too and wrote over FleetLoop's files:"
            " install the two into environments of their own, and FleetLoop again"
        )
    return f"FleetLoop is incomplete: {error}; install it again"
