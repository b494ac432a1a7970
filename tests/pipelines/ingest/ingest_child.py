"""Run one ingest and be killed by SIGKILL when a step is done for the n-th time: `FOLDER LABEL N`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.killed_steps import killed_at
from tests.pipelines.ingest.ingest_lab import load


def main() -> None:
    folder, label, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with killed_at(label, wanted):
        load(folder).ingest().once()


if __name__ == "__main__":
    main()
