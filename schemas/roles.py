"""Names of the roles that a model may have on a vehicle.

A role is a place for one model at a time. `serving` is the first: its answers are what the vehicle acts on.
`shadow` runs beside it on the same pictures and its answers are only recorded.
"""

from __future__ import annotations

import re
from typing import Final

SERVING: Final = "serving"
SHADOW: Final = "shadow"
ROLE_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"
MAX_ROLES: Final = 16
"""Of one vehicle, serving included."""

_role = re.compile(ROLE_PATTERN).fullmatch


def is_role(name: str) -> bool:
    """Whether `name` may be the name of a role."""
    return _role(name) is not None
