"""A vehicle's spool on a disk that refuses: offers frames, counts what is refused, delivers, and tells what it saw."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import Receipt, SpoolWriter
from foundation.clock import ManualClock
from foundation.errors import RejectedError, RetryLaterError
from foundation.events import EventLog
from schemas.reasons import NotAcceptedReason, ValueClass
from tests.checker.spool_books import Received, Told, received
from tests.edge_agent.spool.spool_rig import KEY, VEHICLE, sample

OPEN_TRIES = 5
Tell = Callable[..., None]
T = TypeVar("T")


class DiskSpool:
    """Both sides of one spool with real settings; time is moved by hand, so that the hold after an error is not waited for.

    Receipts are read from the file that the writer prints them to.
    """

    def __init__(self, folder: Path, receipts: Path, tell: Tell, rng: random.Random) -> None:
        self.folder = folder
        self.settings = SpoolSettings(receipt_path=str(receipts))
        self.tell = tell
        self.rng = rng
        self.clock = ManualClock()
        self.said = io.StringIO()
        self.events = EventLog(self.said, self.clock)
        self.offered = 0
        self.refused = 0
        self.told_bytes = 0
        self._receipts = receipts
        self.writer = self.open_writer()
        self.reader = self.open_reader()

    def open_writer(self) -> SpoolWriter:
        """As the supervisor does: a start that the disk refuses is tried again."""
        return _patiently(
            lambda: SpoolWriter.open(self.folder, self.settings, VEHICLE, KEY, self.clock, self.events),
            self._watch,
        )

    def open_reader(self) -> SpoolReader:
        return _patiently(
            lambda: SpoolReader.open(self.folder, self.settings, VEHICLE, self.clock, self.events),
            lambda _: None,
        )

    def _watch(self, writer: SpoolWriter) -> None:
        writer.on_commit = lambda _receipt: self.tell_receipts()

    def offer(self, count: int, sizes_bytes: tuple[int, ...] = (2_000, 6_000, 12_000)) -> None:
        """Frames as the capture does: what is refused is counted by the reason that the spool gave."""
        for _ in range(count):
            number = self.rng.randrange(10**9)
            self.offered += 1
            self.tell("offered", f"frame-{number}")
            try:
                self.writer.append(sample(self.rng.choice(sizes_bytes), ValueClass.NORMAL, number))
            except RejectedError as error:
                self.writer.not_accepted(NotAcceptedReason(error.reason))
                self.refused += 1

    def commit(self) -> Receipt | None:
        return self.writer.commit()

    def tell_receipts(self) -> None:
        """Every receipt that was printed since, in order."""
        data = self._receipts.read_bytes()[self.told_bytes :] if self._receipts.exists() else b""
        self.told_bytes += len(data)
        for line in data.decode().splitlines():
            _, epoch, seq, digest = line.split()
            self.tell("receipt", epoch, int(seq), digest)

    def deliver(self, max_bytes: int, *, leases: int = 1, keep: float = 1.0) -> list[Received]:
        """Lease and acknowledge; `keep` is the chance that a record is acknowledged."""
        got: list[Received] = []
        for _ in range(leases):
            records = self.reader.lease(max_bytes)
            if not records:
                break
            for record in records:
                key = (record.identity.epoch, record.identity.seq)
                one = received(key, record.wire.value)
                got.append(one)
                self.tell("received", *key, one.sha256, one.frame)
                if self.rng.random() < keep:
                    self.reader.acknowledge([record.identity])
                    self.tell("acknowledged", *key)
                else:
                    self.reader.release([record.identity])
        if self.reader.sync():
            self.tell("durable")
        return got

    def restart(self) -> None:
        """Both sides end in order and come again."""
        self.writer.close()
        self.tell_receipts()
        self.reader.close()
        self.writer = self.open_writer()
        self.reader = self.open_reader()

    def close(self) -> None:
        self.writer.close()
        self.tell_receipts()
        self.reader.close()

    def events_told(self) -> list[str]:
        """Names of the events so far."""
        return [json.loads(line)["event"] for line in self.said.getvalue().splitlines()]


def _patiently(make: Callable[[], T], made: Callable[[T], None]) -> T:
    for attempt in range(OPEN_TRIES):
        try:
            one = make()
        except (RetryLaterError, OSError):
            if attempt == OPEN_TRIES - 1:
                raise
            continue
        made(one)
        return one
    raise AssertionError("not reached")


def told_by_rows(rows: list[tuple[object, ...]]) -> Told:
    """What the outside world knows after what a `DiskSpool` told."""
    told, acknowledged = Told(offered=set()), set()
    assert told.offered is not None
    for what, *rest in rows:
        match what, rest:
            case "offered", [str(frame)]:
                told.offered.add(frame)
            case "receipt", [str(epoch), int(seq), str(digest)]:
                told.receipts[epoch, seq] = digest
            case "received", [str(epoch), int(seq), str(digest), str(frame)]:
                told.received.append(Received((epoch, seq), digest, frame))
            case "acknowledged", [str(epoch), int(seq)]:
                acknowledged.add((epoch, seq))
            case "durable", []:
                told.durable |= acknowledged
            case _:
                raise ValueError(f"{what} {rest} is not told by a spool")
    return told
