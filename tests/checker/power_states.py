"""The verdict on a vehicle's models and on a dataset's versions after a power loss, from their files alone.

Pure but for reading the given folder. Imports nothing of the product.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path


def judge_slots(
    state: Path, *, serving: str, allowed: Collection[str], timestamp: int, is_finite: bool
) -> list[str]:
    """`serving` is what the vehicle says it serves after its start; `timestamp` is the version that it had taken in."""
    broken = []
    if serving not in allowed:
        broken.append(
            f"other_model: {serving[:12]} serves, allowed are {sorted(one[:12] for one in allowed)}"
        )
    slot = state / "models" / "slots" / f"{serving}.onnx"
    if not slot.is_file() or sha256(slot.read_bytes()).hexdigest() != serving:
        broken.append(f"slot_is_not_its_digest: {slot.name}")
    if not is_finite:
        broken.append("no_answer: the serving model gave none that is finite")
    found = timestamp_version(state)
    if found < timestamp:
        broken.append(f"rolled_back_trust: timestamp version {found}, {timestamp} had been taken in")
    return broken


def timestamp_version(state: Path) -> int:
    """The version of the saved timestamp; 0 when there is none, -1 when it cannot be read."""
    path = state / "trust" / "metadata" / "timestamp.json"
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_bytes())["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return -1
