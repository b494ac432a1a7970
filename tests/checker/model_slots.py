"""Which model a vehicle's folder says it serves, by the bytes themselves. Reads files only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def serving_bytes(state: Path) -> str:
    """sha256 of the bytes in the slot that `models/roles/serving/active.json` names. Raises OSError, ValueError, KeyError."""
    active = json.loads((state / "models" / "roles" / "serving" / "active.json").read_text())["active"][
        "digest"
    ]
    return hashlib.sha256((state / "models" / "slots" / f"{active}.onnx").read_bytes()).hexdigest()


def active_document(state: Path) -> dict[str, object]:
    """`models/roles/serving/active.json` as it is."""
    return dict(json.loads((state / "models" / "roles" / "serving" / "active.json").read_text()))
