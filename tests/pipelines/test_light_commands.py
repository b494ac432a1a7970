"""Whoever runs no pipeline and trains nothing does not wait for Beam and PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["services.dataset", "services.validate", "services.training"])
def test_a_command_without_a_pipeline_imports_neither_beam_nor_pytorch(module: str) -> None:
    code = f"import sys, {module}; print({{'apache_beam', 'torch'}} & set(sys.modules) or '')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
