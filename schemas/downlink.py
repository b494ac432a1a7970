"""Names of what flows down to vehicles: targets, keys of the lists in them, and the signed time of a timestamp.

Each list stands in two targets. Vehicles of the first release read `index.json`, know only the role serving and refuse
a key that they do not know: it keeps exactly the shape that they know. Everybody else reads `index-2.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from schemas.documents import Release, RolloutPlan
from schemas.roles import SERVING

ISSUED_FIELD: Final = "x-fleetloop-issued-s"
"""Signed field of timestamp.json: whole seconds since 1970 when it was issued."""
INDEX: Final = "index-2.json"
INDEX_1: Final = "index.json"
RELEASES_KEY: Final = "releases"
PLANS_KEY: Final = "plans"


def index_targets(key: str, documents: Sequence[Release] | Sequence[RolloutPlan]) -> Mapping[str, bytes]:
    """Target name -> bytes of the list `key`, oldest first, for vehicles of every release."""
    rows = [json.loads(each.to_json()) for each in documents]
    rows_1 = [json.loads(each.to_json_1()) for each in documents if each.role == SERVING]
    return {INDEX: _bytes(key, 2, rows), INDEX_1: _bytes(key, 1, rows_1)}


def _bytes(key: str, format_: int, rows: list[object]) -> bytes:
    return json.dumps({"format": format_, key: rows}, sort_keys=True, indent=1).encode() + b"\n"
