"""The lab of `rollout_lab` for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rollout.rollout_lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
