"""A day without a broker, in simulated time: the real spool and uploader in this process, stepped through 86,400 seconds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.checker.ride_books import MAX_GROWTH_BYTES
from tests.torture.broker_ride import resident_bytes
from tests.torture.fault import Tally

DAY_S = 86_400
RECORDS = 12_000
WARM_UP = 500
RECORD_BYTES = 6_000
VEHICLE = "car-1"
DRAIN_S = 180.0


class NoAnswer:
    """A client that takes records and never gets an answer: what it holds is in memory until it is given up."""

    in_flight_bytes = 0
    last_error = "no broker"
    is_refused = False

    def __init__(self, clock: Any) -> None:
        self.last_progress_ns: int = clock.monotonic_ns()
        self.held: list[Any] = []

    def send(self, record: Any, on_done: Any) -> None:
        self.held.append((record.value, on_done))

    def close(self, deadline_s: float) -> None:
        """Nothing comes any more."""


class Day:
    """One vehicle whose processes are one, whose clock is set by hand, and whose broker is away for a day."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        from edge_agent.spool.reader import SpoolReader
        from edge_agent.spool.settings import SpoolSettings
        from edge_agent.spool.writer import SpoolWriter
        from edge_agent.uploader import Uploader, UploaderSettings
        from foundation.clock import ManualClock
        from foundation.events import EventLog
        from schemas.signing import VehicleKey
        from tests.edge_agent.agent_bench import WALL_NS

        self.folder = folder
        self.rng = rng
        self.clock = ManualClock(WALL_NS)
        self.key = VehicleKey.generate()
        self.spool = folder / "spool"
        self.receipts_path, self.offered_path = folder / "receipts", folder / "offered.jsonl"
        self.offers: list[str] = []
        settings = SpoolSettings(receipt_path=str(self.receipts_path))
        events = EventLog(folder / "events.jsonl", self.clock, "deliver")
        self.writer = SpoolWriter.open(self.spool, settings, VEHICLE, self.key, self.clock, events)
        self.reader = SpoolReader.open(self.spool, settings, VEHICLE, self.clock, events)
        pace = UploaderSettings(max_in_flight_bytes=1_000_000, lease_bytes=250_000)
        self.uploader = Uploader(self.reader, self._sink, pace, self.clock, events, rng=rng)
        self.bootstrap = ""
        self.largest_bytes = 0
        self.clients = 0

    def _sink(self) -> object:
        from connectors.kafka.settings import KafkaSettings
        from connectors.kafka.sink import KafkaSink

        if self.bootstrap:
            return KafkaSink(KafkaSettings(bootstrap=self.bootstrap), self.clock)
        self.clients += 1
        return NoAnswer(self.clock)

    def offer(self, number: int) -> None:
        """The load generator: one sample, and what the checker is told of it."""
        from dataclasses import replace

        from tests.edge_agent.spool.spool_rig import sample

        made = sample(RECORD_BYTES, seed=number)
        self.offers.append(json.dumps({"payload_sha256": hashlib.sha256(made.payload).hexdigest()}))
        self.writer.append(replace(made, capture_time_ns=self.clock.now_ns()))

    def go_through(self, records: int, seconds: float) -> None:
        """So many records evenly over so many simulated seconds, the uploader stepped at each."""
        for number in range(records):
            self.offer(len(self.offers))
            if number % 20 == 19:
                self.writer.commit()
            self.clock.advance(seconds / records)
            self.uploader.step()
            if number % 50 == 0:
                self.largest_bytes = max(self.largest_bytes, resident_bytes(os.getpid()))
        self.writer.commit()

    def drain(self) -> bool:
        """Simulated and real time go together now: the broker is a real one."""
        end_s = time.monotonic() + DRAIN_S
        while not self.uploader.is_drained and time.monotonic() < end_s:
            self.uploader.step()
            self.clock.advance(0.02)
            time.sleep(0.005)
            self.largest_bytes = max(self.largest_bytes, resident_bytes(os.getpid()))
        return self.uploader.is_drained

    def end(self) -> Path:
        """Close everything and export what the checker is told."""
        from edge_agent.spool.snapshot import read_ledger

        self.uploader.close()
        self.reader.close()
        self.writer.close()
        self.offered_path.write_text("".join(f"{offer}\n" for offer in self.offers))
        exported = self.folder / "ledger.json"
        exported.write_text(json.dumps(read_ledger(self.spool).to_json()))
        return exported


def a_day(folder: Path, rng: random.Random, tally: Tally, which: str) -> None:
    """One try: a day's records pile up, memory stays, then a real broker gets all of them."""
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from tests.e2e.field import check, ingest, workspace
    from tests.edge_agent.spool.spool_rig import faults

    folder.mkdir(parents=True)
    with faults(is_syncing=False):
        day = Day(folder, rng)
        violations = []
        day.go_through(WARM_UP, 600.0)
        steady_bytes = day.largest_bytes = resident_bytes(os.getpid())
        records = RECORDS - rng.randrange(500)
        day.go_through(records, DAY_S)
    away_bytes = day.largest_bytes
    journals = sum(
        path.stat().st_size for path in day.spool.rglob("*") if path.is_file() and path.suffix != ".segment"
    )
    with EmbeddedBroker() as broker:
        day.bootstrap = broker.bootstrap
        ensure_topics(broker.bootstrap)
        begun_s = time.monotonic()
        day.clock.advance(60.0)
        if not day.drain():
            violations.append(f"backlog_stays: {day.reader.pending} pending after {DRAIN_S} s")
        tally.measure("drain_s", time.monotonic() - begun_s)
        ledger_path = day.end()
        place = workspace(
            folder / "workspace", broker.bootstrap, [SimpleNamespace(key=day.key, vehicle_id=VEHICLE)]
        )
        ingest(place)
        told = ["--offered", str(day.offered_path), "--receipts", f"{VEHICLE}={day.receipts_path}"]
        _, verdict = check(broker.bootstrap, place, [*told, "--ledger", f"{VEHICLE}={ledger_path}"])
    violations += [f"{rule}: {found['count']}" for rule, found in verdict["violations"].items()]
    for name, largest_bytes in (("away", away_bytes), ("drain", day.largest_bytes)):
        if largest_bytes - steady_bytes > MAX_GROWTH_BYTES:
            violations.append(f"memory_grew: by {(largest_bytes - steady_bytes) / 1e6:.0f} MB ({name})")
    if verdict["counts"]["landed_identities"] != len(day.offers):
        violations.append(f"{verdict['counts']['landed_identities']} landed of {len(day.offers)} offered")
    tally.judge(violations, which)
    tally.count("records_landed", verdict["counts"]["landed_identities"])
    tally.count("landed_twice", verdict["violations"].get("landed_twice", {}).get("count", 0))
    tally.count("clients_made_and_given_up", day.clients)
    tally.count("max_memory_growth_mb", max(0, round((day.largest_bytes - steady_bytes) / 1e6)))
    tally.count("max_journals_mb", round(journals / 1e6))
