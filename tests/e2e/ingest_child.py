"""Ingest a workspace in small commits; killed by SIGKILL when a step is done: `WORKSPACE LABEL N`, or no LABEL."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from connectors.workspace import Workspace
from fleetloop.commands.ingest import open_ingest
from pipelines import steps
from pipelines.ingest.run import Ingest
from pipelines.runner import RunnerSettings


def small_ingest(place: Path) -> Ingest:
    """The ingest of the command, in commits of 400 offsets and files of 50 records."""
    job = open_ingest(Workspace.open(place), RunnerSettings())
    return replace(job, settings=replace(job.settings, run_offsets=400, range_offsets=200, batch_records=50))


def main() -> None:
    place, label, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    seen = 0

    def kill(reached: str) -> None:
        nonlocal seen
        if reached == label:
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

    with steps.watched(kill):
        report = small_ingest(place).once()
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    main()
