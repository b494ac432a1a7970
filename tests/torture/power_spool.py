"""A busy spool on a tape, and the real recovery of what a power loss left of it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.spool.settings import SpoolSettings
from foundation.errors import RejectedError
from schemas.reasons import ValueClass
from tests.checker.spool_books import Excuses, Received, Told, judge_books, places, received
from tests.edge_agent.spool.spool_rig import Spool, sample
from tests.torture.power_disk import PowerLossDisk, write_tree
from tests.torture.power_tape import Tape, moments, recording

STEPS = 40
EXCUSES = Excuses(evicted={"quota": None})
MAX_LEASES = 2_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """One busy minute of a spool: its calls, its settings, and how the disk was before it."""

    tape: Tape
    settings: SpoolSettings
    offered: set[str]


def settings_of(rng: random.Random, receipts: Path) -> SpoolSettings:
    """A small spool; every second one is full again and again."""
    return SpoolSettings(
        quota_bytes=rng.choice([100_000, 10_000_000]),
        segment_bytes=12_000,
        reserve_bytes=rng.choice([0, 1_000]),
        counts_sync_s=2.0,
        receipt_path=str(receipts),
    )


def record_busy_spool(folder: Path, seed: str) -> Recorded:
    """Commits of mixed classes, uploads, syncs, eviction, both sides killed and opened again: on one tape.

    On every second tape a thread of the writer's own commits what the loop hands over.
    """
    rng = random.Random(seed)
    settings = settings_of(rng, folder / "receipts")
    offered: set[str] = set()
    is_threaded = random.Random(f"{seed}/thread").random() < 0.5
    with recording(folder / "state") as tape:
        tell = _Receipts(folder / "receipts", tape)
        tape.before_call = tell.look
        (folder / "state").mkdir()
        spool = Spool(folder / "state" / "spool", settings)
        if is_threaded:
            spool.writer.start_committer()
        for step in range(STEPS):
            for _ in range(rng.randint(1, 5)):
                number = rng.randrange(10**9)
                offered.add(f"frame-{number}")
                try:
                    spool.writer.append(
                        sample(rng.choice([10, 600, 3_000]), rng.choice(list(ValueClass)), number)
                    )
                except RejectedError as error:
                    if error.reason != "quota_full":
                        raise
            spool.writer.hand_over()
            _deliver(spool, tape, rng)
            if step in (STEPS // 3, 2 * STEPS // 3):
                _restart(spool, is_threaded)
            spool.clock.advance(rng.choice([0.1, 1.5]))
        if is_threaded:
            spool.writer.close()
            spool.kill_reader()
        else:
            spool.close()
        tell.look()
    return Recorded(tape, settings, offered)


def _restart(spool: Spool, is_threaded: bool) -> None:
    """Killed, or (a thread cannot be killed) ended in order; then opened again."""
    if is_threaded:
        spool.writer.close()
        spool.open_writer().start_committer()
    else:
        spool.restart_writer()
    spool.restart_reader()


def _deliver(spool: Spool, tape: Tape, rng: random.Random) -> None:
    for record in spool.reader.lease(rng.choice([1, 4_000, 12_000])):
        key = (record.identity.epoch, record.identity.seq)
        tape.mark("received", received(key, record.wire.value))
        if rng.random() < 0.7:
            spool.reader.acknowledge([record.identity])
            tape.mark("acknowledged", key)
    if rng.random() < 0.3 and spool.reader.sync():
        tape.mark("durable")


class _Receipts:
    """Puts every receipt on the tape before the call that follows its printing."""

    def __init__(self, path: Path, tape: Tape) -> None:
        self._path = path
        self._tape = tape
        self._read_bytes = 0

    def look(self) -> None:
        if not self._path.exists() or self._path.stat().st_size == self._read_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        self._read_bytes += len(lines)
        for line in lines.decode().splitlines():
            _, epoch, seq, digest = line.split()
            self._tape.mark("receipt", (epoch, int(seq)), digest)


def told_by(marks: Sequence[tuple[Any, ...]], offered: set[str] | None = None) -> Told:
    """What the outside world knows after these marks."""
    told, acknowledged = Told(offered=offered), set()
    for what, *rest in marks:
        if what == "receipt":
            told.receipts[rest[0]] = rest[1]
        elif what == "received":
            told.received.append(rest[0])
        elif what == "acknowledged":
            acknowledged.add(rest[0])
        elif what == "durable":
            told.durable |= acknowledged
        elif what == "power lost":
            acknowledged &= told.durable
    return told


@dataclass(frozen=True, slots=True)
class Judged:
    """One state that was opened: what was broken, what came out, and how long the recovery took."""

    violations: list[str]
    delivered: int
    recovery_s: float
    damaged: int = 0
    ledger: dict[str, Any] = field(default_factory=dict)


def open_and_judge(
    folder: Path, settings: SpoolSettings, told: Told, excuses: Excuses, *, put_more: bool = False
) -> Judged:
    """The real recovery of both sides, everything delivered to a list, and the books' verdict.

    An agent that cannot start, or that takes nothing more with `put_more`, is a violation too.
    """
    settings = _without_receipts(settings)
    began = time.monotonic()
    try:
        spool = Spool(folder, settings)
    except Exception as error:
        return Judged([f"not_up: {type(error).__name__}: {error}"], 0, time.monotonic() - began)
    recovery_s = time.monotonic() - began
    try:
        after = drain(spool)
        ledger = spool.ledger().to_json()
        verdict = judge_books(told, after, ledger, excuses)
        damaged = sum(where[0] == "evicted:damaged" for where in places(ledger).values())
        if put_more and (not spool.put(2) or len(drain(spool)) != 2):
            verdict.append("not_up: two more records were not accepted and delivered")
    except Exception as error:
        return Judged([f"not_up: {type(error).__name__}: {error}"], 0, recovery_s)
    finally:
        spool.close()
    return Judged(verdict, len(after), recovery_s, damaged, ledger)


def _without_receipts(settings: SpoolSettings) -> SpoolSettings:
    from dataclasses import replace

    return replace(settings, receipt_path="")


def drain(spool: Spool) -> list[Received]:
    """Lease and acknowledge until nothing is left; what came, as the sink saw it."""
    got: list[Received] = []
    for _ in range(MAX_LEASES):
        records = spool.reader.lease(10_000_000)
        if not records:
            spool.reader.sync()
            return got
        got += [
            received((record.identity.epoch, record.identity.seq), record.wire.value) for record in records
        ]
        spool.reader.acknowledge(record.identity for record in records)
    raise AssertionError(f"the spool was not empty after {MAX_LEASES} leases")


def lose_power_again(
    folder: Path, after: Path, settings: SpoolSettings, marks: list[tuple[Any, ...]], rng: random.Random
) -> list[tuple[Any, ...]]:
    """Recover `folder` on a tape, deliver a part, and lose power in that as well: the state goes to `after`."""
    disk = PowerLossDisk(folder)
    with recording(folder) as tape:
        spool = Spool(folder, _without_receipts(settings))
        _deliver(spool, tape, rng)
        spool.close()
    ((_, more),) = moments(tape, disk, [rng.randint(0, len(tape.steps))])
    write_tree(disk.state(rng), after)
    return [*marks, ("power lost",), *more]
