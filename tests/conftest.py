"""What every test shares: a property is about what is true, not about how long it took on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fleetloop", deadline=None)
settings.load_profile("fleetloop")
