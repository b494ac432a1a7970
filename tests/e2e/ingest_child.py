"""Ingest a workspace: `WORKSPACE LABEL N` in small commits, killed by SIGKILL when step LABEL is done for the
n-th time; with an empty LABEL as the command does, to the end.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from pipelines.ingest.run import Ingest
from pipelines.runner import RunnerSettings
from services.ingest import open_ingest
from tests.killed_steps import killed_at
from workspace.layout import Workspace


def ingest_of(place: Path, **changed: int) -> Ingest:
    """The ingest of the command, with some bounds changed."""
    job = open_ingest(Workspace.open(place), RunnerSettings())
    return replace(job, settings=replace(job.settings, **changed))


def main() -> None:
    place, label, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    bounds = {"run_offsets": 400, "range_offsets": 200, "batch_records": 50} if label else {}
    with killed_at(label, wanted):
        report = ingest_of(place, **bounds).once()
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    main()
