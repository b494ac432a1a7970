"""The real agent with a wall clock of its own, which this process turns."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.checker import clock_story
from tests.checker.broker_log import read_log, read_schemas
from tests.e2e.field import ROOT, LogEnd, Vehicle, check, ingest
from tests.waiting import until

DAY_S = 86_400.0
SHIM = Path(__file__).resolve().parent / "clock_shim"
BOOT_IN_1970 = "boot in 1970"
ACTS = ("right", "ten years ahead", "back by a day", BOOT_IN_1970, "right", "kill in ten years")


class TurnedClock:
    """The wall clock of every process that is started inside `worn`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))

    def off(self, seconds: float) -> None:
        with self.path.open("r+b") as file:
            file.write(struct.pack("<q", round(seconds * 1e9)))

    @contextmanager
    def worn(self) -> Iterator[None]:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SHIM), before)))
        os.environ["TORTURE_CLOCK_OFF_NS"] = str(self.path)
        try:
            yield
        finally:
            del os.environ["TORTURE_CLOCK_OFF_NS"]
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


class ClockTurner:
    """Turns the clock of a vehicle that perceives and delivers, and says whether it goes on doing both."""

    def __init__(self, vehicle: Vehicle, clock: TurnedClock, log_end: LogEnd) -> None:
        self.vehicle, self.clock, self.log_end = vehicle, clock, log_end

    def start(self) -> None:
        self.clock.off(-time.time() + 100.0)
        with self.clock.worn():
            self.vehicle.start()

    def flows(self) -> None:
        """Raises AssertionError when the flow of receipts or of records has stopped."""
        receipts, end = self.vehicle.receipts(), self.log_end()
        until(lambda: self.vehicle.receipts() > receipts + 10, "perceive accepts")
        until(lambda: self.log_end() > end + 10, "records arrive")

    def act(self, number: int) -> str:
        what = ACTS[number % len(ACTS)]
        if what == BOOT_IN_1970:
            self.vehicle.stop()
            self.start()
        elif what == "kill in ten years":
            self.clock.off(3650 * DAY_S)
            for name in ("perceive", "deliver"):
                pid = self.vehicle.child(name)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
        else:
            self.clock.off({"right": 0.0, "ten years ahead": 3650 * DAY_S, "back by a day": -DAY_S}[what])
        return what

    def finish(self) -> list[str]:
        """Stop, play the lap to its end and drain; what did not end well, in words."""
        found = []
        try:
            if self.vehicle.stop() != 0:
                found.append("the agent did not stop cleanly")
            self.vehicle.configure(lease_bytes=4_000_000)
            with self.clock.worn():
                self.vehicle.start("--until-source-ends")
            if self.vehicle.end() != 0:
                found.append("the drain did not end cleanly")
        finally:
            self.vehicle.clean_up()
        return found


def landed(bootstrap: str, place: Path, vehicle: Vehicle) -> tuple[list[clock_story.Delivered], list[str]]:
    """Every record of the log, once; and what the checkers find wrong with ledger, log and lake."""
    ledger = vehicle.export_ledger()
    ingest(place)
    _, verdict = check(bootstrap, place, vehicle.told())
    found = [
        f"{rule}: {told['count']}, {told['examples'][:2]}" for rule, told in verdict["violations"].items()
    ]
    values: list[bytes] = []
    schemas = read_schemas(ROOT / "schemas" / "avro")

    def keep(value: bytes) -> bytes:
        values.append(value)
        return value

    read_log(bootstrap, "fleetloop.samples", schemas, value_deserializer=keep)
    by_name = {(record.epoch, record.seq): record for record in clock_story.delivered(values, schemas)}
    records = list(by_name.values())
    found += clock_story.own_flag_violations(records)
    if ledger["pending"] or ledger["in_doubt"] or ledger["evicted"] or ledger["accepted"] != len(records):
        found.append(
            f"not_delivered: {ledger['accepted']} accepted, {len(records)} landed, {ledger['pending']} left"
        )
    return records, found
