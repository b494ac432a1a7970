"""What every test shares: properties without a deadline, and a temporary folder in which nothing may be left."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.leftovers import LeftoversPlugin

settings.register_profile("fleetloop", deadline=None)
settings.load_profile("fleetloop")


def pytest_configure(config: pytest.Config) -> None:
    """The temporary folder of this session, before anything is made in it."""
    config.pluginmanager.register(LeftoversPlugin(config), "leftovers")
