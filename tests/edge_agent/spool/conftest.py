"""A spool on a disk that can be told to fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_agent.spool.spool_rig import Faults, Spool, faults


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def hook() -> Iterator[Faults]:
    with faults() as made:
        yield made
