"""Shared by the tests of the spool and the uploader: samples, a spool with both sides, faults in system calls."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from edge_agent.spool import statelog
from edge_agent.spool.reader import SpooledRecord, SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import Ledger, read_ledger
from edge_agent.spool.writer import SpoolWriter
from foundation import syscalls
from foundation.clock import ManualClock
from foundation.events import EventLog
from schemas import wire
from schemas.identity import Identity
from schemas.reasons import ValueClass
from schemas.records import Sample
from schemas.signing import VehicleKey
from tests.samples import sample_of

VEHICLE = "car-1"
SPOOL_CODE = str(Path(statelog.__file__).parent)
KEY = VehicleKey.generate()
CALLS = ("open", "write", "fsync", "rename", "unlink", "truncate")
SMALL = SpoolSettings(
    quota_bytes=40_000_000,
    segment_bytes=20_000,
    commit_count=5,
    reserve_bytes=4_000,
    disk_error_hold_s=0.0,
)


def sample(size_bytes: int = 100, value_class: ValueClass = ValueClass.NORMAL, seed: int = 0) -> Sample:
    """A valid sample whose payload depends on `seed`."""
    payload = random.Random(seed).randbytes(size_bytes)
    return sample_of(payload, frame_id=f"frame-{seed}", value_class=value_class)


class Spool:
    """Both sides of one spool folder, each of which can crash and come back."""

    def __init__(self, folder: Path, settings: SpoolSettings = SMALL) -> None:
        self.folder = folder
        self.settings = settings
        self.clock = ManualClock()
        self.events = EventLog(None, self.clock)
        self.on_wait: Callable[[], object] = lambda: None
        self.writer: SpoolWriter = self.open_writer()
        self.reader: SpoolReader = self.open_reader()

    def open_writer(self) -> SpoolWriter:
        self.writer = SpoolWriter.open(
            self.folder,
            self.settings,
            VEHICLE,
            KEY,
            self.clock,
            self.events,
            on_wait=self._note_wait,
        )
        return self.writer

    def _note_wait(self) -> None:
        self.on_wait()

    def open_reader(self) -> SpoolReader:
        self.reader = SpoolReader.open(self.folder, self.settings, VEHICLE, self.clock, self.events)
        return self.reader

    def kill_writer(self) -> None:
        """What SIGKILL does: descriptors and the lock go, what waited in memory is lost, nothing is written."""
        for segment in self.writer._open.values():
            segment.close()
        self.writer._log.close()
        self.writer._delivery.close()
        self.writer._receipts.close()
        self.writer._lock.__exit__(None, None, None)

    def kill_reader(self) -> None:
        self.reader._log.close()
        self.reader._ledger.close()
        self.reader._lock.__exit__(None, None, None)

    def restart_writer(self) -> SpoolWriter:
        self.kill_writer()
        return self.open_writer()

    def restart_reader(self) -> SpoolReader:
        self.kill_reader()
        return self.open_reader()

    def put(
        self, count: int = 1, value_class: ValueClass = ValueClass.NORMAL, size_bytes: int = 100
    ) -> list[Identity]:
        """Append and commit; the identities that were accepted."""
        given = [self.writer.append(sample(size_bytes, value_class, seed)) for seed in range(count)]
        receipt = self.writer.commit()
        return given if receipt is not None and receipt.count == count else []

    def drain(self, max_bytes: int = 10_000_000) -> list[SpooledRecord]:
        """Lease and acknowledge until nothing is left."""
        drained: list[SpooledRecord] = []
        for _ in range(10_000):
            records = self.reader.lease(max_bytes)
            if not records:
                return drained
            drained += records
            self.reader.acknowledge(record.identity for record in records)
        raise AssertionError("the spool never became empty")

    def ledger(self) -> Ledger:
        return read_ledger(self.folder)

    def segment_files(self) -> list[Path]:
        return sorted((self.folder / "segments").iterdir())

    def close(self) -> None:
        self.kill_writer()
        self.kill_reader()


def sha(record: SpooledRecord) -> str:
    """What the header says, after checking that the value really hashes to it."""
    stated = dict(record.wire.headers)[wire.FL_SHA256].decode()
    assert hashlib.sha256(record.wire.value).hexdigest() == stated
    return stated


def whereabouts(ledger: Ledger) -> dict[tuple[str, int], str]:
    """What the ledger says of every accepted number; fails when it says two things of one."""
    found: dict[tuple[str, int], str] = {}
    for row in ledger.epochs:
        kinds = {"delivered": row.delivered, "pending": row.pending, "in_doubt": row.in_doubt}
        kinds |= {f"evicted:{reason}": gone for reason, gone in row.evicted.items()}
        for kind, seqs in kinds.items():
            for seq in seqs:
                assert (row.epoch, seq) not in found, f"{seq} is {found[(row.epoch, seq)]} and {kind}"
                found[(row.epoch, seq)] = kind
    return found


def interrupted(moment: int, do: Callable[[], object], act: Callable[[], object]) -> bool:
    """Run `do`, and `act` once within it: before the function call of the spool's code with that number.

    Whether it was reached. So two processes can be made to meet at every point at which one of them could
    lose its core.
    """
    calls, was_reached = 0, False

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, was_reached
        if event == "call" and frame.f_code.co_filename.startswith(SPOOL_CODE) and not was_reached:
            if calls == moment:
                was_reached = True
                sys.setprofile(None)
                act()
            calls += 1

    sys.setprofile(profile)
    try:
        do()
    finally:
        sys.setprofile(None)
    return was_reached


class Faults:
    """Counts system calls and fails the ones it is told to."""

    def __init__(self, *, is_syncing: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        self.fail: dict[str, set[int]] = {name: set() for name in CALLS}
        self.errno = errno.EIO
        self.before: Callable[[str, tuple[Any, ...]], None] | None = None
        self._original = {name: getattr(syscalls, name) for name in CALLS}
        self._real = dict(self._original)
        if not is_syncing:
            self._real["fsync"] = lambda fd: None

    def fail_next(self, name: str, count: int = 1, code: int = errno.EIO) -> None:
        self.errno = code
        self.fail[name] = {self.counts[name] + step for step in range(1, count + 1)}

    def _call(self, name: str, *args: Any) -> Any:
        self.counts[name] += 1
        if self.counts[name] in self.fail[name]:
            raise OSError(self.errno, os.strerror(self.errno))
        if self.before is not None:
            self.before(name, args)
        return self._real[name](*args)

    def install(self) -> None:
        for name in CALLS:
            setattr(syscalls, name, lambda *args, name=name: self._call(name, *args))

    def remove(self) -> None:
        for name in CALLS:
            setattr(syscalls, name, self._original[name])


@contextmanager
def faults(*, is_syncing: bool = True) -> Iterator[Faults]:
    hook = Faults(is_syncing=is_syncing)
    hook.install()
    try:
        yield hook
    finally:
        hook.remove()
