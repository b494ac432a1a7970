"""Run the soak:  python -m tests.soak --seconds 1200 [--vehicles 2] [--rate-hz 5] [--folder out/soak]

Prints for each measure its start, its end, its slope per hour, the bound, and the smallest growth that a run of this length
finds. Exit status 1 when a measure grows beyond its bound, or a process ended.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from connectors.lake.table import LakeTable
from foundation.errors import FleetLoopError
from schemas.wire import TOPICS
from tests.soak.growth import Record
from tests.soak.processes import count_files, held
from tests.soak.rig import Rig

EVERY_S = 10.0


class Telemetry:
    """The telemetry topic: how large records have become."""

    def __init__(self, bootstrap: str) -> None:
        self._settings = KafkaSettings(bootstrap=bootstrap)
        self._next: dict[int, int] = {}

    def largest(self) -> int:
        """Return the bytes of the largest record since the last call, headers and key included; 0 without one."""
        source, most = KafkaSource(self._settings), 0
        try:
            for partition in source.describe(TOPICS.telemetry).partitions:
                begin, end = source.bounds(TOPICS.telemetry, partition)
                start = self._next.get(partition, begin)
                for batch in source.read(TOPICS.telemetry, partition, start, end) if end > start else ():
                    for record in batch:
                        headers = sum(len(name) + len(value or b"") for name, value in record.headers)
                        most = max(most, len(record.value or b"") + len(record.key or b"") + headers)
                self._next[partition] = end
        finally:
            source.close()
        return most


def measure(rig: Rig, record: Record, telemetry: Telemetry, at_s: float, line: int) -> tuple[list[str], int]:
    """Take one row of every measure; return the processes that are gone, and where to go on in the log of ingest."""
    gone = []
    for name, process in rig.processes.items():
        found = held(process.pid)
        if found is None or not process.is_alive:
            gone.append(name)
            continue
        record.add(f"{name} memory", at_s, found.memory)
        record.add(f"{name} descriptors", at_s, found.descriptors)
        record.add(f"{name} threads", at_s, found.threads)
    for name in rig.names:
        record.add(f"{name} state files", at_s, count_files(rig.folder / name / "state"))
    try:
        if largest := telemetry.largest():
            record.add("telemetry bytes", at_s, largest)
        table = LakeTable.open(rig.workspace / "lake" / "arrivals")
        record.add("lake files", at_s, table.snapshot().files().num_rows)
        started = time.monotonic()
        rig.status()
        record.add("status s", at_s, time.monotonic() - started)
    except FleetLoopError as error:
        print(f"{at_s:.0f} s: not measured: {error}", file=sys.stderr)
    seconds, line = rig.ingest_seconds(line)
    for each in seconds:
        record.add("ingest s", at_s, each)
    return gone, line


def main() -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--vehicles", type=int, default=2)
    parser.add_argument("--rate-hz", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=Path("out/soak"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    record, line, gone = Record(), 0, []
    with Rig(options.folder.resolve(), options.vehicles, options.rate_hz) as rig:
        telemetry = Telemetry(rig.broker.bootstrap)
        started = time.monotonic()
        while not gone and (at_s := time.monotonic() - started) < options.seconds:
            gone, line = measure(rig, record, telemetry, at_s, line)
            time.sleep(max(0.0, min(EVERY_S, options.seconds / 10) - (time.monotonic() - started - at_s)))
    print("\n".join(record.table()))
    failures = [*(f"{name} ended; see its log in {options.folder}" for name in gone), *record.failures()]
    print("\n".join(failures) if failures else f"no growth beyond the bounds in {options.seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
