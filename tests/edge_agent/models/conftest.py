"""The bench of `model_bench` for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge_agent.models.model_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
