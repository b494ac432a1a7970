"""Run one ingest and be killed by SIGKILL when a step is done for the n-th time: `FOLDER LABEL N`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipelines import steps
from tests.pipelines.ingest.ingest_lab import load


def main() -> None:
    folder, label, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    seen = 0

    def kill(reached: str) -> None:
        nonlocal seen
        if reached == label:
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

    with steps.watched(kill):
        load(folder).ingest().once()


if __name__ == "__main__":
    main()
