"""The bench of `model_bench` and the rig of `tuf_rig` for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import Between


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def between(bench: Bench) -> Between:
    return Between(bench)
