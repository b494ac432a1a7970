"""The runtime of the models tells nobody about this vehicle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_runtime_calls_nobody_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    code = (
        "from tests.fakes.models import tiny_model\n"
        "from modelkit.runtimes import open_runtime\n"
        "from modelkit.runtime import RuntimeOptions\n"
        "from modelkit.verify import verify_model\n"
        "open_runtime().load(verify_model(tiny_model(), None), RuntimeOptions())\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True, timeout=120
    )
    assert list(tmp_path.rglob("*")) == []
