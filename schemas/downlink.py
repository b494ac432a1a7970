"""Names in the TUF repository that vehicles read: list targets, their keys, and the signed time of a timestamp.

Each list is in two targets. Agents of the first release read `index.json`, know only the role serving and models of one
file, and refuse unknown keys, so its format never changes. Later agents read `index-2.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from foundation.documents import parse_json
from schemas.documents import Release, RolloutPlan
from schemas.roles import SERVING

ISSUED_FIELD: Final = "x-fleetloop-issued-s"
"""Signed field of timestamp.json: the time of issue in whole seconds since 1970."""
DELEGATIONS_FIELD: Final = "x-fleetloop-delegations"
"""Signed field of root.json: by delegated role the keys (as TUF writes them, by key id) and the least threshold that the
role `targets` may delegate to. A root of an earlier release has none."""
INDEX: Final = "index-2.json"
INDEX_1: Final = "index.json"
RELEASES_KEY: Final = "releases"
PLANS_KEY: Final = "plans"


def index_targets(key: str, documents: Sequence[Release] | Sequence[RolloutPlan]) -> Mapping[str, bytes]:
    """Return the bytes of the list `key`, oldest first, by target name, for agents of every release."""
    rows = [parse_json(each.to_json(), key) for each in documents]
    rows_1 = [parse_json(each.to_json_1(), key) for each in documents if _is_known_to_the_first(each)]
    return {INDEX: _bytes(key, 2, rows), INDEX_1: _bytes(key, 1, rows_1)}


def _is_known_to_the_first(document: Release | RolloutPlan) -> bool:
    is_bundle = document.is_bundle if isinstance(document, RolloutPlan) else bool(document.files)
    return document.role == SERVING and not is_bundle


def _bytes(key: str, format_: int, rows: list[object]) -> bytes:
    return json.dumps({"format": format_, key: rows}, sort_keys=True, indent=1).encode() + b"\n"
