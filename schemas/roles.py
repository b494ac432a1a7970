"""The roles that a model may have on a vehicle.

A role holds one model at a time. The predictions of `serving` are the ones that the vehicle acts on; `shadow` runs on the
same pictures and its predictions are only recorded.
"""

from __future__ import annotations

import re
from typing import Final

SERVING: Final = "serving"
SHADOW: Final = "shadow"
ROLE_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"
MAX_ROLES: Final = 16
"""Bound on the roles of a vehicle, serving included."""

_role = re.compile(ROLE_PATTERN).fullmatch


def is_role(name: str) -> bool:
    """Return whether `name` is a valid role name."""
    return _role(name) is not None
