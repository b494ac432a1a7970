"""What every test shares: properties without a deadline, and a temporary folder in which nothing may be left."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.leftovers import LeftoversPlugin

for _library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    # Their threads wait by spinning: with several workers on two cores they take the time of the others.
    os.environ.setdefault(_library, "1")
settings.register_profile("fleetloop", deadline=None)
settings.load_profile("fleetloop")


def pytest_configure(config: pytest.Config) -> None:
    """The temporary folder of this session, before anything is made in it."""
    config.pluginmanager.register(LeftoversPlugin(config), "leftovers")


LONGEST = (
    "e2e/test_demo.py",
    "e2e/test_tutorial.py",
    "e2e/test_tutorial_own_pictures.py",
    "e2e/test_delivery_under_kills.py",
    "connectors/test_kafka_access.py",
    "e2e/test_demo_interrupted.py",
)
"""Files of more than a minute, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first: workers take whole files, and a long one that begins last keeps the others waiting."""
    seconds: dict[str, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        file = item.nodeid.split("::")[0]
        seconds[file] = seconds.get(file, 0) + (5 if marks & {"slow", "e2e", "kafka"} else 0)
    for number, name in enumerate(LONGEST):
        seconds[f"tests/{name}"] = 10_000 - number
    items.sort(key=lambda item: -seconds[item.nodeid.split("::")[0]])  # stable: the order inside a file stays
